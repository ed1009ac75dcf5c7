//! The `caracal.toml` that a client is configured with.

use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::Path,
};

/// Writes the file so that only its owner can read it: there is a secret in it. The mode is that
/// of the file from its first moment on. A file that is there already has a mode of its own and
/// maybe readers, so it is never written into: it stays, or with `replace` makes way.
pub(crate) fn write(
    file: &Path,
    environment: &[(&'static str, String)],
    replace: bool,
) -> Result<(), String> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            format!("{} is there already: --force replaces it", file.display())
        }
        _ => format!("cannot write {}: {error}", file.display()),
    };
    if replace {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut opened = options.open(file).map_err(failed)?;
    opened.write_all(profile(environment).as_bytes()).map_err(|error| {
        // Half of it is no use to anybody.
        let _ = fs::remove_file(file);
        failed(error)
    })
}

fn profile(environment: &[(&'static str, String)]) -> String {
    let of = |name| {
        environment.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value.as_str())
    };
    let mut text = "# Made by caracal_dev, and good while that runs.\n".to_owned();
    for (key, name) in [
        ("zone_id", "CARACAL_ZONE_ID"),
        ("application_id", "CARACAL_APPLICATION_ID"),
        ("sts_url", "CARACAL_STS_URL"),
        ("coordinator_url", "CARACAL_COORDINATOR_URL"),
        ("gateway_url", "CARACAL_GATEWAY_URL"),
        ("app_client_secret", "CARACAL_APP_CLIENT_SECRET"),
    ] {
        text += &format!("{key} = {}\n", in_toml_quotes(of(name)));
    }
    for resource in of("CARACAL_APP_RESOURCES").split(',').filter(|resource| !resource.is_empty()) {
        text += &format!("\n[[credentials]]\nresource = {}\n", in_toml_quotes(resource));
    }
    text
}

/// As a basic string (TOML 1.0): control characters only stand in it escaped.
fn in_toml_quotes(value: &str) -> String {
    let mut text = "\"".to_owned();
    for character in value.chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            _ if character.is_control() => {
                // Writing to a string does not fail.
                let _ = write!(text, "\\u{:04X}", u32::from(character));
            }
            _ => text.push(character),
        }
    }
    text + "\""
}
