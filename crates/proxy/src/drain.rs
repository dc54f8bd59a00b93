//! The signal that what runs is to finish, and nothing new to begin.

use tokio::sync::watch;

/// Where a worker sees that it drains. Cheap to clone; stays readable when the other side is gone.
#[derive(Clone)]
pub struct Drain(watch::Receiver<bool>);

/// Starts a drain.
pub struct DrainSignal(watch::Sender<bool>);

impl DrainSignal {
    pub fn new() -> (Self, Drain) {
        let (sender, receiver) = watch::channel(false);
        (Self(sender), Drain(receiver))
    }

    pub fn start(&self) {
        self.0.send_replace(true);
    }
}

impl Drain {
    pub fn started(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the drain starts: for ever, if it never does.
    pub async fn wait(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|&started| started).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
