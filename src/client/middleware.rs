//! The way out as a middleware.

use http::Extensions;
use reqwest::{Request, Response};
use reqwest_middleware::{Error, Middleware, Next, Result};

use super::{Transport, transport::revocable};

/// With the feature `reqwest-middleware`. Add it last, below all that repeats requests: each that comes
/// to it gets a mandate of its own.
///
/// What gets a mandate, or the ids of the context, is sent by the connections of the
/// [`Caracal`](crate::Caracal), not by those of the client around it, which may follow redirects with
/// all they carry: so no middleware after this one sees it, and neither default headers nor a proxy or
/// certificates of that client are used for it. Anything else goes on as it is.
///
/// A URL comes parsed: its dot segments, backslashes and tabs are resolved, its user and password are a
/// header already. What is left is judged. Give text from outside to [`Transport::request`] instead.
///
/// ```no_run
/// # async fn example(caracal: caracal_axum::Caracal) -> Result<(), reqwest_middleware::Error> {
/// let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new())
///     .with(caracal.transport().scopes(["tickets:read"]))
///     .build();
/// let answer = client.get("https://tickets.internal/v1/open").send().await?;
/// # Ok(())
/// # }
/// ```
#[async_trait::async_trait]
impl Middleware for Transport {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        let mut headers = request.headers().clone();
        let url = self.calling.prepare(request.url().as_str(), &mut headers).await;
        let url = url.map_err(Error::middleware)?;
        if headers == *request.headers() {
            return next.run(request, extensions).await;
        }
        *request.headers_mut() = headers;
        *request.url_mut() = url.clone();
        let answer = self.calling.client.clients().of(&url).execute(request).await;
        let answer = answer.map_err(reqwest::Error::without_url)?;
        revocable(answer, url).map_err(Error::middleware)
    }
}
