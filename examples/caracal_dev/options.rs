//! What can be said on the command line.

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
};

pub(crate) const HELP: &str = "\
A Caracal control plane in one process, for development and tests: STS, Coordinator and
Gateway.

All state is in memory: keys, sessions and tokens end with the process. Nothing is encrypted. It
does not start where CARACAL_ENV is production.

usage: caracal_dev [OPTIONS]

    --world FILE         who and what there is, as TOML: zones, applications, resources, grants,
                         approvals, identity providers. Without it there is zone `zone-1` with
                         application `app-1` and `resource://tickets`
    --sts ADDR           where the STS listens (127.0.0.1:8080)
    --coordinator ADDR   where the Coordinator listens (127.0.0.1:4000)
    --gateway ADDR       where the Gateway listens (127.0.0.1:8081)
    --operator ADDR      where `POST /operator` is answered; without it, nowhere. Who can reach it
                         needs no credential
    --application ID     whose environment and configuration is meant (the first of the world)
    --write-config FILE  writes a caracal.toml of that application, secret included; can be
                         repeated. A file that is there already stays
    --force              replaces it
    --help               prints this

ADDR is PORT or :PORT, on 127.0.0.1 alone, or HOST:PORT. Port 0 is any that is free.

stdout gets lines `export NAME='value'` for a shell, `operator: URL` if there is one, and `ready`
when everything listens. stderr gets a line for each decision; RUST_LOG says how much.

The body of `POST /operator` is one of
    {\"action\": \"advance\", \"seconds\": 901.5}           moves the clock ahead
    {\"action\": \"rotate_key\", \"zone\": \"..\"}
    {\"action\": \"suspend\", \"zone\": \"..\", \"session\": \"..\"}, also `resume` and `terminate`
    {\"action\": \"approvals\", \"zone\": \"..\"}             lists what waits for a person, or did
    {\"action\": \"approve\", \"zone\": \"..\", \"approval_id\": \"..\"}, also `reject`
    {\"action\": \"revoke_user\", \"zone\": \"..\", \"user\": \"..\"}   with all that runs for them
    {\"action\": \"archive_application\", \"zone\": \"..\", \"application\": \"..\"}

Ctrl-C and SIGTERM end it.
";

pub(crate) struct Options {
    pub(crate) world: Option<PathBuf>,
    pub(crate) sts: SocketAddr,
    pub(crate) coordinator: SocketAddr,
    pub(crate) gateway: SocketAddr,
    pub(crate) operator: Option<SocketAddr>,
    pub(crate) application: Option<String>,
    pub(crate) write_config: Vec<PathBuf>,
    pub(crate) force: bool,
}

pub(crate) enum Wish {
    Help,
    Serve(Box<Options>),
}

/// Reads `--name value` and `--name=value`.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Wish, String> {
    let mut options = Options {
        world: None,
        sts: loopback(8080),
        coordinator: loopback(4000),
        gateway: loopback(8081),
        operator: None,
        application: None,
        write_config: Vec::new(),
        force: false,
    };
    let mut arguments =
        arguments.map(|text| text.into_string().map_err(|text| format!("{text:?} is not UTF-8")));
    while let Some(argument) = arguments.next().transpose()? {
        let (name, attached) = match argument.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
            _ => (argument.as_str(), None),
        };
        let mut value = || match attached.clone() {
            Some(value) => Ok(value),
            None => arguments.next().transpose()?.ok_or_else(|| format!("{name} needs a value")),
        };
        match name {
            "--world" => options.world = Some(value()?.into()),
            "--sts" => options.sts = address(&value()?)?,
            "--coordinator" => options.coordinator = address(&value()?)?,
            "--gateway" => options.gateway = address(&value()?)?,
            "--operator" => options.operator = Some(address(&value()?)?),
            "--application" => options.application = Some(value()?),
            "--write-config" => options.write_config.push(value()?.into()),
            "--force" | "--help" if attached.is_some() => {
                return Err(format!("{name} takes no value"));
            }
            "--force" => options.force = true,
            "--help" | "-h" => return Ok(Wish::Help),
            _ => return Err(format!("there is no option `{name}`")),
        }
    }
    Ok(Wish::Serve(options.into()))
}

/// Nobody else shall reach it unless that was said.
fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse() {
        return Ok(loopback(port));
    }
    let otherwise = || format!("`{text}` is no address to listen on: PORT, :PORT or HOST:PORT");
    if text.starts_with(':') {
        return Err(otherwise());
    }
    text.to_socket_addrs()
        .map_err(|error| format!("{} ({error})", otherwise()))?
        .next()
        .ok_or_else(otherwise)
}
