//! Passing a request on, and its answer back. Bodies go through as they come.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{body::Body, response::Response};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts};
use http_body::{Body as _, Frame};
use tokio::sync::oneshot;
use url::Url;

use super::{
    checks::{Admitted, UNBUILDABLE},
    headers,
    stream::Watched,
};
use crate::{
    embedded::{
        Shared,
        sts::{Minted, Refusal, refusal},
        upstream::{Kind, Upstream},
    },
    outgoing::{Clients, Connecting},
};

/// The largest body of a request.
const MAX_BODY: u64 = 10 * 1024 * 1024;

/// How long an upstream that has the whole request may take to begin its answer.
const PATIENCE: Duration = Duration::from_secs(30);

const TOO_LARGE: Refusal = refusal(413, "payload_too_large", "request body too large");
const UNREACHABLE: Refusal = refusal(502, "internal_error", "upstream unreachable");
const TIMEOUT: Refusal = refusal(504, "internal_error", "upstream timeout");

/// The clients of all Gateways of this process. They keep no connections, and so belong to no
/// runtime; making them reads the system's certificates, which takes its time.
fn client(url: &Url) -> Option<&'static reqwest::Client> {
    static CLIENTS: OnceLock<Option<Clients>> = OnceLock::new();
    let clients = CLIENTS.get_or_init(|| Connecting::default().clients(0).ok());
    clients.as_ref().map(|clients| clients.of(url))
}

pub(super) async fn forward(
    shared: &Arc<Shared>,
    from: IpAddr,
    head: &Parts,
    body: Body,
    admitted: Admitted,
    id: &str,
) -> Result<Response, Refusal> {
    let Admitted { url, upstream, mandate, expires_in, authority } = admitted;
    let client = client(&url).ok_or(UNREACHABLE)?;
    let mut request = reqwest::Request::new(head.method.clone(), url);
    *request.headers_mut() = headers::forwarded(head, from, id);
    present(request.headers_mut(), &upstream, &mandate)?;
    let (sent, all_sent) = oneshot::channel();
    let too_large = Arc::new(AtomicBool::new(false));
    if body.is_end_stream() {
        drop(sent);
    } else {
        request
            .headers_mut()
            .insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        let body = Mutex::new(body);
        let too_large = Arc::clone(&too_large);
        let limited = Limited { body, left: MAX_BODY, too_large, _sent: sent };
        *request.body_mut() = Some(reqwest::Body::wrap(limited));
    }
    let answered = tokio::select! {
        answered = client.execute(request) => answered,
        () = too_late(all_sent) => return Err(TIMEOUT),
    };
    if too_large.load(Ordering::Relaxed) {
        return Err(TOO_LARGE);
    }
    let answer = http::Response::from(answered.map_err(|_| UNREACHABLE)?);
    let (answer, body) = answer.into_parts();
    let is_sized = answer.headers.contains_key(header::CONTENT_LENGTH);
    let body = Watched::new(body, is_sized, authority, Arc::clone(shared));
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = headers::returned(&answer, id, expires_in);
    Ok(response)
}

/// Comes when the whole request has been sent and the answer to it does not.
async fn too_late(all_sent: oneshot::Receiver<()>) {
    // Nothing is ever sent over it: it closes with the body.
    let _ = all_sent.await;
    tokio::time::sleep(PATIENCE).await;
}

/// Puts in what is shown to the upstream. What goes into the query stands there already.
fn present(headers: &mut HeaderMap, upstream: &Upstream, mandate: &Minted) -> Result<(), Refusal> {
    let mut put = |name: HeaderName, text: String| -> Result<(), Refusal> {
        let mut value = HeaderValue::try_from(text).map_err(|_| UNBUILDABLE)?;
        value.set_sensitive(true);
        headers.insert(name, value);
        Ok(())
    };
    match &upstream.credential.kind {
        Kind::None | Kind::Query { .. } => {}
        Kind::CaracalMandate => put(header::AUTHORIZATION, format!("Bearer {}", mandate.token()?))?,
        Kind::Header { name, scheme, secret } => {
            let name = HeaderName::try_from(name).map_err(|_| UNBUILDABLE)?;
            let scheme = scheme.as_ref().map_or_else(String::new, |scheme| format!("{scheme} "));
            put(name, format!("{scheme}{secret}"))?;
        }
        Kind::Basic { username, password } => {
            let pair = STANDARD.encode(format!("{username}:{password}"));
            put(header::AUTHORIZATION, format!("Basic {pair}"))?;
        }
    }
    if upstream.forward_identity {
        put(headers::IDENTITY, mandate.token()?)?;
    }
    Ok(())
}

/// The body of a request on its way, up to the most that passes, and without trailers.
struct Limited {
    /// Never locked: the HTTP client wants to share what it only ever polls.
    body: Mutex<Body>,
    left: u64,
    too_large: Arc<AtomicBool>,
    _sent: oneshot::Sender<()>,
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let body = self.body.get_mut().unwrap_or_else(PoisonError::into_inner);
        let frame = match ready!(Pin::new(body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => return Poll::Ready(None),
        };
        let Ok(data) = frame.into_data() else { return Poll::Ready(None) };
        match self.left.checked_sub(data.len() as u64) {
            Some(left) => {
                self.left = left;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            None => {
                self.too_large.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::FileTooLarge).into())))
            }
        }
    }
}
