//! What was made in a task of its own, until somebody takes it.

use super::CaracalError;

/// Something that somebody has to know of when nobody takes it.
pub(super) struct Claim<T> {
    value: T,
    unclaimed: Unclaimed,
}

struct Unclaimed(Option<Box<dyn FnOnce() + Send>>);

impl<T> Claim<T> {
    /// `lost` is called when nobody takes it.
    pub(super) fn new(value: T, lost: impl FnOnce() + Send + 'static) -> Self {
        Self { value, unclaimed: Unclaimed(Some(Box::new(lost))) }
    }

    pub(super) fn take(self) -> T {
        let Self { value, mut unclaimed } = self;
        unclaimed.0 = None;
        value
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(lost) = self.0.take() {
            lost();
        }
    }
}

/// Why something was not taken.
pub(super) fn nobody_waits() -> CaracalError {
    CaracalError::usage("cancelled", "whoever asked for it no longer waited")
}
