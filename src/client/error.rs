//! What can go wrong on the way out.

use std::{borrow::Cow, error::Error, fmt, sync::Arc, time::Duration};

use http::StatusCode;

use super::PendingApproval;
use crate::Denial;

/// The error of a hook, a credentials source, or the network: whatever it was, shared.
pub(super) type Source = Arc<dyn Error + Send + Sync>;

/// Why something that a [`Caracal`](super::Caracal) was asked for did not happen.
///
/// Its text says what to do about it. Programs go by [`code`](Self::code), which never changes with
/// the text, and by [`is_retryable`](Self::is_retryable). No secret and no URL is in it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum CaracalError {
    /// The configuration is incomplete, contradicts itself or is not safe: everything that is wrong
    /// with it at once.
    Configuration(ConfigurationProblems),
    /// What was asked for cannot be done like this, or as things are. Mostly found before any request
    /// was sent.
    Usage(Usage),
    /// The credentials source failed or had none.
    Credentials(CredentialsUnavailable),
    /// A service answered, and refused.
    Refused(Box<Refusal>),
    /// A service did not answer, or its answer broke off: whether it did what it was asked is not
    /// known.
    Unreachable(Unreachable),
    /// A service answered with success, and with something that cannot be used.
    UnusableAnswer(UnusableAnswer),
    /// The headers to be bound were refused.
    Denied(Denial),
    /// An [`on_agent_start`](super::Caracal::on_agent_start) or
    /// [`on_agent_end`](super::Caracal::on_agent_end) hook failed.
    Hook(HookFailed),
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigurationProblems(Vec<String>);

impl ConfigurationProblems {
    /// One sentence for each problem. No secret is among them; paths of files are.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.0
    }
}

/// What cannot be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    code: &'static str,
    help: String,
}

/// No credentials to be had.
#[derive(Debug, Clone)]
pub struct CredentialsUnavailable(Option<Source>);

/// A service of Caracal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ControlPlane {
    /// The Security Token Service, which mints.
    Sts,
    /// The Coordinator, which keeps sessions and delegations.
    Coordinator,
    /// The Gateway, or whoever else a call goes to.
    Gateway,
}

impl fmt::Display for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sts => "STS",
            Self::Coordinator => "Coordinator",
            Self::Gateway => "Gateway, or whoever was called,",
        })
    }
}

/// What a service refused, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub(super) service: ControlPlane,
    /// What was to be done, for people: `start a session`.
    pub(super) action: &'static str,
    pub(super) status: StatusCode,
    /// `error` of the body.
    pub(super) code: Option<String>,
    pub(super) description: Option<String>,
    pub(super) request_id: Option<String>,
    pub(super) retry_after: Option<Duration>,
    /// The body, where it is not the usual object.
    pub(super) excerpt: Option<String>,
    /// The approval that is missing.
    pub(super) approval: Option<PendingApproval>,
    /// What to do about it.
    pub(super) hint: Option<Cow<'static, str>>,
}

impl Refusal {
    /// Who refused.
    #[must_use]
    pub fn service(&self) -> ControlPlane {
        self.service
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What the service says about it, for people.
    #[must_use]
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// How long the service, or what is in front of it, asks to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The beginning of a body that was not the usual object.
    #[must_use]
    pub fn excerpt(&self) -> Option<&str> {
        self.excerpt.as_deref()
    }
}

/// A service that could not be reached, or whose answer broke off.
#[derive(Debug, Clone)]
pub struct Unreachable {
    pub(super) service: ControlPlane,
    pub(super) action: &'static str,
    pub(super) timed_out: bool,
    /// Whether not even a connection came about: then nothing was asked.
    pub(super) unsent: bool,
    /// What the request was sent with, where it was.
    pub(super) request_id: Option<String>,
    pub(super) source: Source,
}

impl Unreachable {
    /// Who was asked.
    #[must_use]
    pub fn service(&self) -> ControlPlane {
        self.service
    }

    /// Whether it was given up after the time limit.
    #[must_use]
    pub fn timed_out(&self) -> bool {
        self.timed_out
    }
}

/// An answer that says success and makes no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnusableAnswer {
    pub(super) service: ControlPlane,
    pub(super) action: &'static str,
    pub(super) status: StatusCode,
    pub(super) problem: &'static str,
    pub(super) request_id: Option<String>,
}

impl UnusableAnswer {
    /// Who answered.
    #[must_use]
    pub fn service(&self) -> ControlPlane {
        self.service
    }
}

/// A hook that failed.
#[derive(Debug, Clone)]
pub struct HookFailed {
    pub(super) phase: &'static str,
    pub(super) source: Source,
}

impl CaracalError {
    pub(super) fn configuration(problems: Vec<String>) -> Self {
        Self::Configuration(ConfigurationProblems(problems))
    }

    pub(super) fn usage(code: &'static str, help: impl Into<String>) -> Self {
        Self::Usage(Usage { code, help: help.into() })
    }

    pub(super) fn closed() -> Self {
        Self::usage("client_closed", "the client is closed; make another one")
    }

    pub(super) fn credentials(source: Option<Source>) -> Self {
        Self::Credentials(CredentialsUnavailable(source))
    }

    /// The cause in a word: the `error` that a service answered with, or one of this crate's own
    /// (`invalid_configuration`, `client_closed`, `context_required`, `unreachable`, `timeout`,
    /// `unusable_answer`, `http_error` for a refusal without a code, …).
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Configuration(_) => "invalid_configuration",
            Self::Usage(usage) => usage.code,
            Self::Credentials(_) => "credentials_unavailable",
            Self::Refused(refusal) => refusal.code.as_deref().unwrap_or("http_error"),
            Self::Unreachable(Unreachable { timed_out: true, .. }) => "timeout",
            Self::Unreachable(_) => "unreachable",
            Self::UnusableAnswer(_) => "unusable_answer",
            Self::Denied(denial) => denial.code().as_str(),
            Self::Hook(_) => "hook_failed",
        }
    }

    /// The status of the answer, where there was one.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused(refusal) => Some(refusal.status),
            Self::UnusableAnswer(answer) => Some(answer.status),
            Self::Denied(denial) => Some(denial.status()),
            _ => None,
        }
    }

    /// The id by which the service's audit trail knows the request.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) => refusal.request_id.as_deref(),
            Self::UnusableAnswer(answer) => answer.request_id.as_deref(),
            Self::Unreachable(unreachable) => unreachable.request_id.as_deref(),
            _ => None,
        }
    }

    /// The approval that a mint waits for: code `interaction_required`.
    #[must_use]
    pub fn approval(&self) -> Option<&PendingApproval> {
        match self {
            Self::Refused(refusal) => refusal.approval.as_ref(),
            _ => None,
        }
    }

    /// Whether the same may work a little later: nobody answered, or with 408, 425, 429 or 5xx. What
    /// is worth it is tried again by the client itself before it fails.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Refused(refusal) => {
                let status = refusal.status.as_u16();
                matches!(status, 408 | 425 | 429) || status >= 500
            }
            _ => false,
        }
    }

    /// The same with another hint.
    pub(super) fn hinted(mut self, hint: &'static str) -> Self {
        if let Self::Refused(refusal) = &mut self {
            refusal.hint = Some(hint.into());
        }
        self
    }

    /// The same with a hint for this case alone.
    pub(super) fn explained(mut self, hint: String) -> Self {
        if let Self::Refused(refusal) = &mut self
            && refusal.status == StatusCode::FORBIDDEN
        {
            refusal.hint = Some(hint.into());
        }
        self
    }

    /// The same with the id that the request was sent with, where the answer had none.
    pub(super) fn of_request(mut self, id: &str) -> Self {
        let known = match &mut self {
            Self::Refused(refusal) => &mut refusal.request_id,
            Self::UnusableAnswer(answer) => &mut answer.request_id,
            Self::Unreachable(unreachable) => &mut unreachable.request_id,
            _ => return self,
        };
        known.get_or_insert_with(|| id.to_owned());
        self
    }

    /// Whether a service answered with this status.
    pub(super) fn is_status(&self, status: StatusCode) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.status == status)
    }
}

/// An error with everything that led to it, on one line.
pub(super) struct Chain<'a>(pub(super) &'a CaracalError);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

impl fmt::Display for CaracalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(ConfigurationProblems(problems)) => {
                f.write_str("Caracal is not configured: ")?;
                f.write_str(&problems.join("; "))
            }
            Self::Usage(usage) => f.write_str(&usage.help),
            Self::Credentials(CredentialsUnavailable(None)) => f.write_str(
                "the credentials source has no credentials, or incomplete ones: nothing was sent",
            ),
            Self::Credentials(_) => f.write_str("the credentials source failed: nothing was sent"),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Unreachable(unreachable) => unreachable.fmt(f),
            Self::UnusableAnswer(answer) => {
                let UnusableAnswer { service, action, status, problem, .. } = answer;
                write!(
                    f,
                    "cannot {action}: the {service} answered {}, and {problem}; is it one of v1.0.0, \
                     and what its URL leads to?",
                    status.as_u16()
                )
            }
            Self::Denied(denial) => denial.fmt(f),
            Self::Hook(HookFailed { phase, .. }) => write!(f, "an on_agent_{phase} hook failed"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, action, status, .. } = self;
        write!(f, "cannot {action}: the {service} answered {}", status.as_u16())?;
        if let Some(code) = &self.code {
            write!(f, " {code}")?;
        }
        if let Some(description) = &self.description {
            write!(f, " ({description})")?;
        }
        if let Some(excerpt) = &self.excerpt {
            write!(f, " with {excerpt:?}")?;
        }
        if let Some(wait) = self.retry_after {
            write!(f, ", to be tried again in {} s", wait.as_secs())?;
        }
        if let Some(id) = &self.request_id {
            write!(f, " [request {id}]")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, ": {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, action, .. } = self;
        if self.timed_out {
            write!(f, "cannot {action}: the {service} did not answer in time")
        } else if self.unsent {
            write!(f, "cannot {action}: the {service} cannot be reached; check its URL")
        } else {
            write!(f, "cannot {action}: the connection to the {service} broke off")
        }
    }
}

impl Error for CaracalError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let source: &Source = match self {
            Self::Credentials(CredentialsUnavailable(source)) => source.as_ref()?,
            Self::Unreachable(unreachable) => &unreachable.source,
            Self::Hook(failed) => &failed.source,
            _ => return None,
        };
        Some(&**source)
    }
}
