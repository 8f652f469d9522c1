//! Which stages a file goes through: a reading of the table of stages.

use crate::media_kind::MediaKind;
use crate::stage::{STAGES, Stage};
use crate::stage_set::StageSet;

/// The stages of a kind of file, in order.
#[must_use]
pub const fn route(kind: MediaKind) -> &'static [Stage] {
    const DOCUMENT: (usize, [Stage; STAGES]) = gather(MediaKind::Document);
    const IMAGE: (usize, [Stage; STAGES]) = gather(MediaKind::Image);
    const OTHER: (usize, [Stage; STAGES]) = gather(MediaKind::Other);
    let (count, stages) = match kind {
        MediaKind::Document => &DOCUMENT,
        MediaKind::Image => &IMAGE,
        MediaKind::Other => &OTHER,
    };
    stages.split_at(*count).0
}

/// How many stages work on a kind of file, and these, in front.
const fn gather(kind: MediaKind) -> (usize, [Stage; STAGES]) {
    let mut stages = Stage::IN_ORDER;
    let (mut row, mut count) = (0, 0);
    while row < STAGES {
        let kinds = Stage::IN_ORDER[row].profile().route;
        let mut place = 0;
        while place < kinds.len() {
            if kinds[place] as u8 == kind as u8 {
                stages[count] = Stage::IN_ORDER[row];
                count += 1;
            }
            place += 1;
        }
        row += 1;
    }
    (count, stages)
}

/// What is known when a stage's result has been recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded<'a> {
    /// The stage that was recorded.
    pub stage: Stage,
    /// The sniffed media type: from the upload stage only; it decides the route there. None is an unknown type.
    pub media_type: Option<&'a str>,
    /// Whether that stage made text; one that works on text need not say so.
    pub has_text: bool,
}

/// Where the file goes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The next stage; none after metadata.
    pub next: Option<Stage>,
    /// Stages that the batch's options leave out between here and `next`, in order; each is recorded as skipped.
    pub skipped: Vec<Stage>,
}

/// Decides the next stage. One that was not asked for is skipped, and so is one that needs the result of a skipped one.
/// Where there is no text, a stage that works on text is passed over without being called skipped: nobody left it out.
#[must_use]
pub fn next_hop(recorded: &Recorded<'_>, asked: StageSet) -> Hop {
    hop_from(recorded.stage, kind_at(recorded), recorded.has_text, asked)
}

/// Upload tells the type. Later it is not asked again: all the kinds that come to a stage go on alike, as a test holds the
/// table to.
fn kind_at(recorded: &Recorded<'_>) -> MediaKind {
    if recorded.stage == Stage::Upload {
        return recorded.media_type.map_or(MediaKind::Other, MediaKind::of);
    }
    let kinds = recorded.stage.profile().route;
    kinds.first().copied().unwrap_or(MediaKind::Other)
}

fn hop_from(here: Stage, kind: MediaKind, has_text: bool, asked: StageSet) -> Hop {
    let left_out = left_out(here, kind, asked);
    // One that works on text was given some, whatever it says of its own result.
    let has_text = has_text || here.profile().needs_text;
    let mut skipped = Vec::new();
    let behind = route(kind).iter().copied();
    for stage in behind.skip_while(|stage| *stage != here).skip(1) {
        if left_out.contains(&stage) {
            skipped.push(stage);
            continue;
        }
        let has_nothing_to_read = stage.profile().needs_text && !has_text;
        if has_nothing_to_read {
            continue;
        }
        return Hop {
            next: Some(stage),
            skipped,
        };
    }
    Hop {
        next: None,
        skipped,
    }
}

/// The stages of the route that a file does not go through, which has come as far as `here`.
fn left_out(here: Stage, kind: MediaKind, asked: StageSet) -> Vec<Stage> {
    let mut left_out = Vec::new();
    for stage in route(kind).iter().copied().filter(|stage| *stage != here) {
        let needs = stage.profile().needs;
        let lacks_input = needs.iter().any(|need| left_out.contains(need));
        if lacks_input || !asked.contains(stage) {
            left_out.push(stage);
        }
    }
    left_out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PDF: &str = "application/pdf";
    const PNG: &str = "image/png";
    const ZIP: &str = "application/zip";

    fn after(stage: Stage, media_type: Option<&str>, has_text: bool, asked: StageSet) -> Hop {
        let recorded = Recorded {
            stage,
            media_type,
            has_text,
        };
        next_hop(&recorded, asked)
    }

    fn hop(next: Option<Stage>, skipped: &[Stage]) -> Hop {
        Hop {
            next,
            skipped: skipped.to_vec(),
        }
    }

    /// The stages that run and those that are skipped, from upload to the end.
    fn walk(media_type: &str, has_text: bool, asked: StageSet) -> (Vec<Stage>, Vec<Stage>) {
        let mut ran = vec![Stage::Upload];
        let mut skipped = Vec::new();
        let mut here = Stage::Upload;
        loop {
            let sniffed = (here == Stage::Upload).then_some(media_type);
            let hop = after(here, sniffed, has_text, asked);
            skipped.extend(hop.skipped);
            let Some(next) = hop.next else {
                return (ran, skipped);
            };
            ran.push(next);
            here = next;
            assert!(ran.len() <= Stage::ALL.len(), "the route goes in a circle");
        }
    }

    #[test]
    fn each_kind_goes_its_own_route() {
        use Stage::{Embeddings, ExtractText, ImageProcessing, Metadata, Upload};
        let all = StageSet::all();
        let nothing = Vec::new();
        assert_eq!(
            walk(PDF, true, all),
            (
                vec![Upload, ExtractText, Embeddings, Metadata],
                nothing.clone()
            )
        );
        assert_eq!(
            walk(PNG, true, all),
            (
                vec![Upload, ImageProcessing, Embeddings, Metadata],
                nothing.clone()
            )
        );
        assert_eq!(walk(ZIP, true, all), (vec![Upload, Metadata], nothing));
        assert_eq!(
            after(Upload, None, false, all),
            hop(Some(Metadata), &[]),
            "an unknown type is stored"
        );
    }

    #[test]
    fn an_image_without_a_caption_passes_embeddings_over_silently() {
        let found = after(Stage::ImageProcessing, None, false, StageSet::all());
        assert_eq!(found, hop(Some(Stage::Metadata), &[]));
    }

    #[test]
    fn a_stage_whose_input_was_left_out_is_left_out_too() -> Result<(), crate::UnknownStage> {
        let asked = StageSet::parse(["embeddings"])?;
        let both = [Stage::ExtractText, Stage::Embeddings];
        assert_eq!(
            after(Stage::Upload, Some(PDF), false, asked),
            hop(Some(Stage::Metadata), &both)
        );
        let image_only = StageSet::parse(["image-processing"])?;
        assert_eq!(
            after(Stage::ImageProcessing, None, true, image_only),
            hop(Some(Stage::Metadata), &[Stage::Embeddings])
        );
        Ok(())
    }

    #[test]
    fn the_route_of_every_kind_begins_with_upload_ends_with_metadata_and_repeats_nothing() {
        for kind in MediaKind::ALL {
            let stages = route(kind);
            assert_eq!(stages.first(), Some(&Stage::Upload));
            assert_eq!(stages.last(), Some(&Stage::Metadata));
            for (index, stage) in stages.iter().enumerate() {
                assert!(!stages[..index].contains(stage));
            }
        }
    }

    #[test]
    fn where_the_type_is_not_told_any_more_all_kinds_go_on_alike() {
        let later = Stage::ALL.into_iter().filter(|here| *here != Stage::Upload);
        for (here, bits) in later.flat_map(|here| (0..=u8::MAX).map(move |bits| (here, bits))) {
            let asked = StageSet::from_bits(bits);
            let recorded = Recorded {
                stage: here,
                media_type: None,
                has_text: true,
            };
            let kinds = here.profile().route.iter().copied();
            for kind in kinds.filter(|kind| !left_out(Stage::Upload, *kind, asked).contains(&here))
            {
                assert_eq!(
                    hop_from(here, kind, true, asked),
                    next_hop(&recorded, asked),
                    "{kind:?} goes on from {here} in another way, and the type is told by upload alone"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn every_file_reaches_metadata_and_each_stage_of_its_route_runs_or_is_accounted_for(
            bits in any::<u8>(),
            has_text in any::<bool>(),
            media_type in prop::sample::select(vec![PDF, PNG, ZIP])
        ) {
            let asked = StageSet::from_bits(bits);
            let (ran, skipped) = walk(media_type, has_text, asked);
            prop_assert_eq!(ran.last(), Some(&Stage::Metadata));
            for stage in &ran {
                prop_assert!(asked.contains(*stage));
                prop_assert!(!skipped.contains(stage));
            }
            for stage in route(MediaKind::of(media_type)) {
                let silent = stage.profile().needs_text && !has_text;
                prop_assert!(ran.contains(stage) || skipped.contains(stage) || silent);
            }
        }
    }
}
