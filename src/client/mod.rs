//! The way out.

mod config;
mod error;

pub use error::{
    CaracalError, ConfigurationProblems, CredentialsUnavailable, HookFailed, Refusal, Service,
    Unreachable, UnusableAnswer, Usage,
};
