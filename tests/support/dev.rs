//! The `caracal_dev` example as a process of its own.

use std::{collections::HashMap, fs, path::PathBuf, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};

use super::client;

/// `cargo test` builds the examples beside the tests.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let test = std::env::current_exe().unwrap();
    let target: PathBuf = test.parent().unwrap().parent().unwrap().join("examples/caracal_dev");
    assert!(target.exists(), "build the examples first: cargo build --examples --all-features");
    let mut command = Command::new(target);
    command.args(arguments).env_clear().kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A folder of one test, gone when that ends.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(test: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("caracal-dev-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) struct Running {
    child: Child,
    /// What it printed, `ready` included.
    pub(crate) lines: Vec<String>,
    log: JoinHandle<String>,
}

impl Running {
    /// Starts it on free ports and reads on until it is ready.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let mut all = vec!["--sts", "0", "--coordinator", ":0", "--gateway", "0"];
        all.extend(arguments);
        let mut child = command(&all).spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let log = tokio::spawn(async move {
            let mut text = String::new();
            stderr.read_to_string(&mut text).await.unwrap();
            text
        });
        let mut reader = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line| line != "ready") {
            match reader.next_line().await.unwrap() {
                Some(line) => lines.push(line),
                None => panic!("it ended before it was ready: {}", log.await.unwrap()),
            }
        }
        Self { child, lines, log }
    }

    /// The variables, as a shell understands them.
    pub(crate) async fn variables(&self) -> HashMap<String, String> {
        let exports: Vec<_> =
            self.lines.iter().filter(|line| line.starts_with("export ")).cloned().collect();
        let script = format!("{}\nenv -0", exports.join("\n"));
        let output = Command::new("/bin/sh")
            .args(["-c", &script])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .output()
            .await
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
        pairs
            .filter(|(name, _)| name.starts_with("CARACAL_"))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    pub(crate) fn operator_url(&self) -> String {
        let line = self.lines.iter().find_map(|line| line.strip_prefix("operator: "));
        format!("{}/operator", line.unwrap())
    }

    pub(crate) async fn operate(&self, step: Value) -> (u16, Value) {
        let sent = client().post(self.operator_url()).json(&step).send().await.unwrap();
        (sent.status().as_u16(), sent.json().await.unwrap())
    }

    /// Sends it a signal; the code it ends with, and its log.
    pub(crate) async fn signal(mut self, signal: &str) -> (Option<i32>, String) {
        let id = self.child.id().unwrap().to_string();
        let sent = Command::new("/bin/kill").args([signal, &id]).status().await.unwrap();
        assert!(sent.success());
        let ended = timeout(Duration::from_secs(20), self.child.wait()).await.unwrap().unwrap();
        (ended.code(), self.log.await.unwrap())
    }
}
