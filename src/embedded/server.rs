//! A listener of its own for each service.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use axum::{body::Body, extract::Request, response::Response};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

/// How long a request under way may take to come to an end: as long as the real STS reads.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait before another connection is taken, when the system had no room for one.
const PAUSE: Duration = Duration::from_millis(50);

/// A request is not answered: its connection is closed instead.
#[derive(Debug, thiserror::Error)]
#[error("the connection is dropped on purpose")]
pub(super) struct Unanswered;

/// A service that listens. It ends when it is dropped, with all its connections.
pub(super) struct Server {
    open: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// Serves `answer` for every request, whatever its path.
    pub(super) fn start<A, F>(listener: TcpListener, answer: A) -> Self
    where
        A: Fn(IpAddr, Request) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<Response<Body>, Unanswered>> + Send + 'static,
    {
        let (open, opened) = watch::channel(true);
        Self { open, task: tokio::spawn(listen(listener, answer, opened)) }
    }

    /// Takes no more requests.
    pub(super) fn close(&self) {
        self.open.send_replace(false);
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

async fn listen<A, F>(listener: TcpListener, answer: A, mut open: watch::Receiver<bool>)
where
    A: Fn(IpAddr, Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<Body>, Unanswered>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let for_connections = open.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => {
                    connections.spawn(converse(accepted, answer.clone(), for_connections.clone()));
                }
                Err(error) => pause(&error).await,
            },
            Some(_) = connections.join_next() => {}
            () = closing(&mut open) => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Waits until no more requests are taken.
async fn closing(open: &mut watch::Receiver<bool>) {
    // An error says that the server is gone, which closes it as well.
    drop(open.wait_for(|open| !open).await);
}

/// A connection that ended before it was taken is nothing; anything else may last.
async fn pause(error: &io::Error) {
    if error.kind() != io::ErrorKind::ConnectionAborted {
        tokio::time::sleep(PAUSE).await;
    }
}

async fn converse<A, F>(
    (stream, from): (TcpStream, SocketAddr),
    answer: A,
    mut open: watch::Receiver<bool>,
) where
    A: Fn(IpAddr, Request) -> F,
    F: Future<Output = Result<Response<Body>, Unanswered>>,
{
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        answer(from.ip(), request.map(Body::new))
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // How a connection ends is its peer's affair.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = closing(&mut open) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
