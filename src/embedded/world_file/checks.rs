//! What must hold within a single table of a world file, beyond the types of its members.

use http::Method;
use toml::Spanned;

use super::{
    Fault,
    tables::{Credential, Enforcement, IssuerTable, OperationTable, ResourceTable, Secret},
};
use crate::embedded::{
    registry::http_url,
    upstream::{is_header_name, is_header_value, is_scheme, is_user_name},
};

impl Credential {
    fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::CaracalMandate => "caracal_mandate",
            Self::ApiKey => "api_key",
            Self::BearerToken => "bearer_token",
            Self::HttpBasic => "http_basic",
        }
    }

    /// The members it cannot do without, and those it may have.
    fn members(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::None | Self::CaracalMandate => (&[], &[]),
            Self::ApiKey => (&["api_key"], &["header", "scheme", "query_param", "allowed_hosts"]),
            Self::BearerToken => (&["bearer_token"], &["header", "scheme", "allowed_hosts"]),
            Self::HttpBasic => (&["username", "password"], &["allowed_hosts"]),
        }
    }
}

impl ResourceTable {
    /// Checks what the Gateway needs.
    pub(super) fn check(&self) -> Result<(), Fault> {
        if let Some(url) = &self.upstream_url {
            check_url("upstream_url", url)?;
        }
        self.check_credential()?;
        self.check_operations()
    }

    fn check_credential(&self) -> Result<(), Fault> {
        let kind = self.credential.as_ref().map_or(Credential::None, |kind| *kind.get_ref());
        let (needed, allowed) = kind.members();
        let members = [
            ("api_key", place(self.api_key.as_ref())),
            ("header", place(self.header.as_ref())),
            ("scheme", place(self.scheme.as_ref())),
            ("query_param", place(self.query_param.as_ref())),
            ("bearer_token", place(self.bearer_token.as_ref())),
            ("username", place(self.username.as_ref())),
            ("password", place(self.password.as_ref())),
            ("allowed_hosts", place(self.allowed_hosts.as_ref())),
        ];
        let word = kind.word();
        let at_kind = place(self.credential.as_ref()).unwrap_or_default();
        for (name, found) in members {
            match found {
                None if needed.contains(&name) => {
                    let what = format!("credential = \"{word}\" needs `{name}`");
                    return Err(Fault::new(at_kind, what));
                }
                Some(at) if !needed.contains(&name) && !allowed.contains(&name) => {
                    let what = format!("`{name}` does not go with credential = \"{word}\"");
                    return Err(Fault::new(at, what));
                }
                _ => {}
            }
        }
        if kind == Credential::ApiKey {
            match (&self.header, &self.query_param, &self.scheme) {
                (None, None, _) => {
                    let what = "credential = \"api_key\" needs `header` or `query_param`";
                    return Err(Fault::new(at_kind, what));
                }
                (Some(_), Some(query), _) => {
                    let what = "`query_param` stands in place of `header`, not beside it";
                    return Err(Fault::new(query.span().start, what));
                }
                (None, Some(_), Some(scheme)) => {
                    let what = "`scheme` goes with `header`, not with `query_param`";
                    return Err(Fault::new(scheme.span().start, what));
                }
                _ => {}
            }
        }
        self.check_credential_values()
    }

    /// Everything has to fit where it will be put.
    fn check_credential_values(&self) -> Result<(), Fault> {
        check_value(self.header.as_ref(), "`header` is no name of an HTTP header", |name| {
            is_header_name(name)
        })?;
        check_value(self.scheme.as_ref(), "`scheme` is no single word", |scheme| {
            is_scheme(scheme)
        })?;
        check_value(self.query_param.as_ref(), "`query_param` is empty", |name| !name.is_empty())?;
        check_value(self.username.as_ref(), "`username` is empty, or has a colon in it", |name| {
            is_user_name(name)
        })?;
        let in_header = self.query_param.is_none();
        let sendable = |secret: &Secret| {
            let Secret(secret) = secret;
            if in_header { is_header_value(secret) } else { !secret.is_empty() }
        };
        check_value(
            self.api_key.as_ref(),
            "`api_key` is empty, or no header can hold it",
            sendable,
        )?;
        check_value(
            self.bearer_token.as_ref(),
            "`bearer_token` is empty, or no header can hold it",
            sendable,
        )?;
        check_value(
            self.allowed_hosts.as_ref(),
            "`allowed_hosts` are bare host names, such as \"api.example.com\"",
            |hosts| hosts.iter().all(|host| !host.is_empty() && !host.contains(['/', ' '])),
        )
    }

    fn check_operations(&self) -> Result<(), Fault> {
        for operation in &self.operations {
            let at = operation.span().start;
            let OperationTable { method, path, scope } = operation.get_ref();
            if self.enforcement == Enforcement::TransportUniform {
                let what = "operations only count with enforcement = \"enforced\"";
                return Err(Fault::new(at, what));
            }
            if Method::from_bytes(method.as_bytes()).is_err() {
                return Err(Fault::new(at, format!("`{method}` is no HTTP method")));
            }
            if !path.starts_with('/') {
                return Err(Fault::new(at, format!("the path `{path}` does not begin with `/`")));
            }
            if !self.scopes.contains(scope) {
                let resource = &self.identifier;
                let what =
                    format!("an operation of `{scope}`, which `{resource}` does not declare");
                return Err(Fault::new(at, what));
            }
        }
        Ok(())
    }
}

impl IssuerTable {
    pub(super) fn check(&self) -> Result<(), Fault> {
        check_url("jwks_url", &self.jwks_url)?;
        check_value(Some(&self.audience), "`audience` is empty", |audience| !audience.is_empty())?;
        check_value(self.jwks_file.as_ref(), "`jwks_file` is empty", |file| !file.is_empty())
    }
}

/// The error shows no URL, which may hold a password.
fn check_url(name: &str, url: &Spanned<String>) -> Result<(), Fault> {
    let what = format!("`{name}` is no absolute URL with http or https, as in https://example.com");
    check_value(Some(url), &what, |url| http_url(url).is_some())
}

fn check_value<T>(
    value: Option<&Spanned<T>>,
    otherwise: &str,
    holds: impl FnOnce(&T) -> bool,
) -> Result<(), Fault> {
    match value {
        Some(value) if !holds(value.get_ref()) => Err(Fault::new(value.span().start, otherwise)),
        _ => Ok(()),
    }
}

fn place<T>(value: Option<&Spanned<T>>) -> Option<usize> {
    value.map(|value| value.span().start)
}
