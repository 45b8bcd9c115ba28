//! The three splits, which share no topic and no wording of a prompt.

/// Which part of the data something belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Split {
    /// Preference pairs to train on; the base corpus is made of the same topics and wordings.
    Train,
    /// Preference pairs to watch while training.
    Validation,
    /// Prompts and pairs for the final measurement.
    Test,
}

impl Split {
    /// All splits.
    pub(super) const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];
}

/// One value for each split.
#[derive(Debug)]
pub(super) struct PerSplit<T> {
    pub(super) train: T,
    pub(super) validation: T,
    pub(super) test: T,
}

impl<T: Copy> PerSplit<T> {
    /// The value of `split`.
    pub(super) fn get(&self, split: Split) -> T {
        match split {
            Split::Train => self.train,
            Split::Validation => self.validation,
            Split::Test => self.test,
        }
    }
}
