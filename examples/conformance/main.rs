//! Judges mandates and envelopes line by line, for comparison with other implementations.
//!
//! Reads JSON lines from standard input and answers each with one, in order, through the crate's
//! real builder and layer. The forms are described in `judge.rs`.
//!
//! ```text
//! cargo run --release --example conformance < cases.jsonl > answers.jsonl
//! ```

mod judge;

use std::io::{self, BufRead, Write};

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for line in io::stdin().lock().split(b'\n') {
        let line = line?;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let answer = judge::answer_line(&line).await;
        serde_json::to_writer(&mut out, &answer)?;
        out.write_all(b"\n")?;
        // A reader may wait for each answer.
        out.flush()?;
    }
    Ok(())
}
