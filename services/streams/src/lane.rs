/// Which of a stage's two streams an entry stands in. A stage reads both and begins with what came by the express one, so that
/// a few files do not wait behind the seconds of work that a stage's window holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// For batches of which little is out at the stage.
    Express,
    /// For all else.
    #[default]
    Regular,
}

/// Before the ids of entries of the express stream: ids are unique within one stream only.
const EXPRESS_MARK: &str = "x";

impl Lane {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Express, Self::Regular];

    /// The id of an entry as it is told to others, from Redis's own.
    pub(crate) fn mark(self, id: &str) -> String {
        match self {
            Self::Express => format!("{EXPRESS_MARK}{id}"),
            Self::Regular => id.to_owned(),
        }
    }

    /// Where an entry stands, and Redis's own id of it.
    pub(crate) fn of_id(id: &str) -> (Self, &str) {
        match id.strip_prefix(EXPRESS_MARK) {
            Some(own) => (Self::Express, own),
            None => (Self::Regular, id),
        }
    }
}
