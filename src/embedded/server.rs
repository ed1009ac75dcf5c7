//! A listener of its own for each service.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
    response::Response,
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::timeout};

/// How long a request under way may take to come to an end: as long as the real STS reads.
const PATIENCE: Duration = Duration::from_secs(5);

/// A service that listens. It ends when it is dropped.
pub(super) struct Server {
    stop: Option<oneshot::Sender<Infallible>>,
    task: JoinHandle<io::Result<()>>,
}

impl Server {
    /// Serves `answer` for every request, whatever its path.
    pub(super) fn start<A, F>(listener: TcpListener, answer: A) -> Self
    where
        A: Fn(IpAddr, Request) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let app = Router::new().fallback(
            move |ConnectInfo(from): ConnectInfo<SocketAddr>, request: Request| {
                answer(from.ip(), request)
            },
        );
        let (stop, stopped) = oneshot::channel::<Infallible>();
        let service = app.into_make_service_with_connect_info::<SocketAddr>();
        let serving = axum::serve(listener, service).with_graceful_shutdown(async move {
            // Nothing is ever sent: the sender goes.
            let _ = stopped.await;
        });
        Self { stop: Some(stop), task: tokio::spawn(serving.into_future()) }
    }

    /// Takes no more requests.
    pub(super) fn close(&mut self) {
        self.stop = None;
    }

    /// Waits until the requests under way have been answered, but not for ever: a sender may never
    /// come to the end of its request.
    pub(super) async fn closed(mut self) {
        // It ends by itself, was ended before, or is aborted by the drop.
        let _ = timeout(PATIENCE, &mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
