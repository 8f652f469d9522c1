//! What becomes of messages.

use super::*;

impl World {
    pub(super) fn relay(&mut self) {
        let refused = self.faults && self.one_in(6);
        let away = self.faults && self.redis_away > 0;
        let page = self.leader.relay.take_page();
        let mut accepted = Vec::new();
        let mut back = Vec::new();
        for row in page {
            if away || (refused && self.one_in(2)) {
                if planted!(DeletedBeforePublished) {
                    accepted.push(row.id);
                } else {
                    back.push(row);
                }
                continue;
            }
            let Ok(dispatch) = caudal_streams::decode(&row.body) else {
                self.breaks(format!("outbox row {} cannot be read", row.id));
                continue;
            };
            for files in dispatch.files.chunks(PACKED) {
                self.note(|| format!("published for {}: {}", row.stage, short(files)));
                self.streams.publish(row.stage, files.to_vec());
            }
            // Redis may have taken it and its answer be lost.
            if self.faults && self.one_in(12) {
                back.push(row);
            } else {
                accepted.push(row.id);
            }
        }
        self.leader.relay.settle(accepted, back);
    }
}
