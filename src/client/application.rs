//! Calls as the application itself.

use std::{
    fmt,
    sync::{Arc, PoisonError},
    time::Duration,
};

use http::Method;

use super::{
    Caracal, Transport, TransportRequest,
    calling::{AsApplication, Calling},
};

/// Calls to one resource as the application itself; of [`Caracal::application_transport`].
#[derive(Clone)]
#[must_use = "a transport sends nothing by itself"]
pub struct ApplicationTransport {
    calling: Calling,
    resource: String,
    labels: Vec<String>,
}

impl Caracal {
    /// Calls to one resource as the application itself, whatever is bound: of a bound context only
    /// trace and foreign baggage go on.
    ///
    /// The first call opens a pair of sessions, of which one delegates to the other; they serve all
    /// calls with the same resource, scopes, labels and ttl, and end with [`close`](Self::close). At
    /// most 19 pairs are kept. Any target is routed through the Gateway, for the resource is named.
    ///
    /// ```no_run
    /// # async fn example(caracal: caracal_axum::Caracal) -> Result<(), caracal_axum::CaracalError> {
    /// let tickets = caracal.application_transport("resource://tickets", ["tickets:read"]);
    /// let answer = tickets.get("https://tickets.internal/v1/open").send().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn application_transport<S: Into<String>>(
        &self,
        resource: impl Into<String>,
        scopes: impl IntoIterator<Item = S>,
    ) -> ApplicationTransport {
        let mut calling = Calling::new(self.clone());
        calling.scopes = Some(scopes.into_iter().map(Into::into).collect());
        calling.allow_root = true;
        ApplicationTransport { calling, resource: resource.into(), labels: Vec::new() }
    }
}

impl ApplicationTransport {
    /// What its sessions are called; one of the labels must name a role. The application's id unless
    /// set.
    pub fn labels<S: Into<String>>(mut self, labels: impl IntoIterator<Item = S>) -> Self {
        self.labels = labels.into_iter().map(Into::into).collect();
        self
    }

    /// How long its mandates last, in whole seconds from 36 to 3600: 900 unless set. Its sessions
    /// live two minutes longer.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.calling.ttl = Some(ttl);
        self
    }

    /// An approval that was given, for the next call and no other.
    pub fn approval(self, id: impl Into<String>) -> Self {
        *self.calling.approval.lock().unwrap_or_else(PoisonError::into_inner) = Some(id.into());
        self
    }

    fn transport(&self) -> Transport {
        let mut calling = self.calling.clone();
        let (resource, labels) = (self.resource.clone(), self.labels.clone());
        calling.application = Some(Arc::new(AsApplication { resource, labels }));
        Transport::of(calling)
    }

    /// A request; see [`Transport::request`].
    pub fn request(&self, method: Method, target: impl AsRef<str>) -> TransportRequest {
        self.transport().request(method, target)
    }

    /// A request for a path of the resource.
    pub fn fetch(&self, path: &str) -> TransportRequest {
        self.transport().fetch(self.resource.clone(), path)
    }

    /// A GET request.
    pub fn get(&self, target: impl AsRef<str>) -> TransportRequest {
        self.request(Method::GET, target)
    }

    /// A POST request.
    pub fn post(&self, target: impl AsRef<str>) -> TransportRequest {
        self.request(Method::POST, target)
    }
}

impl fmt::Debug for ApplicationTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApplicationTransport")
            .field("resource", &self.resource)
            .field("scopes", &self.calling.scopes)
            .finish_non_exhaustive()
    }
}
