//! A Caracal control plane in one process, for development: STS, Coordinator and Gateway, and at
//! wish an endpoint for what operators do.
//!
//! ```text
//! cargo run --example caracal_dev --features embedded -- --help
//! ```
//!
//! On stdout it prints the environment of one application as lines for a shell, and `ready` when
//! everything listens. The log, one line for each decision, goes to stderr.

mod config;
mod operator;
mod options;

use std::{
    env,
    error::Error,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use caracal_axum::embedded::{EmbeddedCaracal, World};
use options::{HELP, Options, Wish};
use tokio::net::TcpListener;
use tracing_subscriber::{
    EnvFilter,
    fmt::{format::Writer, time::FormatTime},
};

/// How long requests under way may take when it ends.
const GRACE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> ExitCode {
    let options = match options::parse(env::args_os().skip(1)) {
        Ok(Wish::Help) => {
            // Whoever asked may have stopped to listen.
            let _ = io::stdout().write_all(HELP.as_bytes());
            return ExitCode::SUCCESS;
        }
        Ok(Wish::Serve(options)) => options,
        Err(what) => return refuse(&format!("{what} (see --help)")),
    };
    if env::var("CARACAL_ENV").is_ok_and(|value| value.trim().eq_ignore_ascii_case("production")) {
        return refuse(
            "CARACAL_ENV is production, and this is for development only: it has no persistence, \
             no encryption and no protection",
        );
    }
    match serve(*options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprint!(": {error}");
                cause = error.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

/// Says what is wrong with how it was called.
fn refuse(what: &str) -> ExitCode {
    eprintln!("error: {what}");
    ExitCode::from(2)
}

async fn serve(options: Options) -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| {
            EnvFilter::new("warn,caracal_dev=info,caracal_axum::embedded=info")
        }))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_timer(TimeOfDay)
        .with_target(false)
        .with_level(false)
        .init();
    // From here on a signal ends it in order.
    let ended = signals()?;

    let mut builder = EmbeddedCaracal::builder()
        .sts_address(options.sts)
        .coordinator_address(options.coordinator)
        .gateway_address(options.gateway);
    if let Some(file) = &options.world {
        let name = file.display();
        let world = World::from_file(file).map_err(|error| format!("{name}: {error}"))?;
        builder = builder.world(world);
    }
    let caracal = Arc::new(builder.start().await?);
    tracing::info!("all state is in memory: keys, sessions and tokens end with this process");

    let mut operator = String::new();
    if let Some(address) = options.operator {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| format!("cannot listen on {address}: {error}"))?;
        operator = format!("operator: http://{}\n", listener.local_addr()?);
        // It goes with the runtime.
        tokio::spawn(axum::serve(listener, operator::routes(&caracal)).into_future());
    }
    let exports = configure(&options, &caracal)?;
    let services = [options.sts, options.coordinator, options.gateway];
    for address in services.into_iter().chain(options.operator) {
        if !address.ip().is_loopback() {
            tracing::warn!("{address} can be reached from other machines; nothing is encrypted");
        }
    }
    let mut stdout = io::stdout();
    stdout.write_all((exports + &operator + "ready\n").as_bytes())?;
    stdout.flush()?;

    ended.await;
    tracing::info!("ending");
    // An operator's request may hold it for a moment yet; then that one is the last to drop it.
    if let Some(caracal) = Arc::into_inner(caracal) {
        let _ = tokio::time::timeout(GRACE, caracal.shutdown()).await;
    }
    Ok(())
}

/// Writes the configurations asked for; the environment, as lines for a shell.
fn configure(options: &Options, caracal: &EmbeddedCaracal) -> Result<String, String> {
    let known = caracal.applications();
    let Some(application) = options.application.as_ref().or(known.first()) else {
        return match options.write_config.is_empty() {
            true => Ok(String::new()),
            false => Err("the world has no application to write a configuration for".to_owned()),
        };
    };
    let environment = caracal.environment(application).ok_or_else(|| {
        format!("the world has no application `{application}`, only: {}", known.join(", "))
    })?;
    for file in &options.write_config {
        config::write(file, &environment, options.force)?;
        tracing::info!("wrote {} for {application}", file.display());
    }
    let export =
        |(name, value): &(&str, String)| format!("export {name}={}\n", in_shell_quotes(value));
    Ok(environment.iter().map(export).collect())
}

/// Waits for Ctrl-C and, where there is such a thing, SIGTERM; both are caught from now on.
#[cfg(unix)]
fn signals() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn signals() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        let _ = tokio::signal::ctrl_c().await;
    })
}

/// As one word of a POSIX shell, whatever is in it.
fn in_shell_quotes(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

/// Hours, minutes and seconds, in UTC.
struct TimeOfDay;

impl FormatTime for TimeOfDay {
    fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = now.as_secs() % 86_400;
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(w, "{hours:02}:{minutes:02}:{seconds:02}.{:03}Z", now.subsec_millis())
    }
}
