//! The contestants in alternation, round after round: the table of `benches/README.md`.
//!
//! ```text
//! cargo bench --bench table
//! ```

mod contestants;

use std::{hint::black_box, time::Instant};

use axum::{Router, http::HeaderMap};
use contestants::{
    Zone, bare, bare_with_route_layer, headers, mandate, no_op, ours, ours_uncached,
    ours_with_requirement, prf_floor, refusals, request, send, sha256_floor,
};

const ROUNDS: usize = 15;

/// One router, and the requests it is sent in turn.
struct Contestant {
    name: String,
    app: Router,
    requests: Vec<HeaderMap>,
    /// Requests per round.
    count: usize,
    rounds: Vec<f64>,
}

impl Contestant {
    fn new(name: &str, app: Router, requests: &[HeaderMap], count: usize) -> Self {
        let requests = requests.to_vec();
        Self { name: name.to_owned(), app, requests, count, rounds: Vec::new() }
    }

    fn round(&mut self) {
        let mut requests = self.requests.iter().cycle();
        let started = Instant::now();
        for _ in 0..self.count {
            let headers = requests.next().unwrap();
            black_box(send(&mut self.app, request(headers)));
        }
        self.rounds.push(started.elapsed().as_secs_f64() * 1e6 / self.count as f64);
    }

    fn median(&self) -> f64 {
        let mut rounds = self.rounds.clone();
        rounds.sort_by(f64::total_cmp);
        rounds[rounds.len() / 2]
    }
}

fn main() {
    let zone = Zone::new();
    let one = [headers(&mandate(&zone, 0))];
    let thousand: Vec<_> = (0..1000).map(|at| headers(&mandate(&zone, at))).collect();
    let mut contestants = vec![
        Contestant::new("bare router", bare(), &one, 20_000),
        Contestant::new("no-op layer", no_op(), &one, 20_000),
        Contestant::new("floor: SHA-256, moka, insert", sha256_floor(), &one, 20_000),
        Contestant::new("floor: keyed PRF, moka, insert", prf_floor(), &one, 20_000),
        Contestant::new("cached mandate", ours(&zone), &one, 20_000),
        Contestant::new("cached, 1,000 in turn", ours(&zone), &thousand, 20_000),
        Contestant::new(
            "two no-op layers, one on the route",
            bare_with_route_layer(),
            &one,
            20_000,
        ),
        Contestant::new("cached, and one Require", ours_with_requirement(&zone), &one, 20_000),
        Contestant::new("uncached", ours_uncached(&zone), &one, 1000),
    ];
    for (name, token) in refusals(&zone) {
        let mut headers = headers(token.as_deref().unwrap_or_default());
        if token.is_none() {
            headers.remove("authorization");
        }
        let name = format!("refused: {name}");
        contestants.push(Contestant::new(&name, ours(&zone), &[headers], 1000));
    }
    let (signed, signature, key) = contestants::raw_verification(&zone, 0);
    let mut raw = Vec::new();
    for round in 0..=ROUNDS {
        for contestant in &mut contestants {
            contestant.round();
        }
        let started = Instant::now();
        for _ in 0..1000 {
            key.verify_sig(black_box(signed.as_bytes()), black_box(&signature)).unwrap();
        }
        raw.push(started.elapsed().as_secs_f64() * 1e3);
        if round == 0 {
            // The first round only warms up.
            contestants.iter_mut().for_each(|contestant| contestant.rounds.clear());
            raw.clear();
        }
    }
    raw.sort_by(f64::total_cmp);
    let bare = contestants[0].median();
    let no_op = contestants[1].median();
    println!("| contestant | µs | net of bare | net of no-op |\n|---|---|---|---|");
    for contestant in &contestants {
        let median = contestant.median();
        println!(
            "| {} | {median:.2} | {:.2} | {:.2} |",
            contestant.name,
            median - bare,
            median - no_op
        );
    }
    let raw = raw[raw.len() / 2];
    let uncached = contestants.iter().find(|one| one.name == "uncached").unwrap().median();
    println!("| one aws-lc-rs verification alone | {raw:.2} | | |");
    println!("\nuncached, net of bare, over one verification: {:.3}", (uncached - bare) / raw);
    two_threads(&zone, &one[0]);
}

/// The same work on two threads at once, each with a router of its own over one verifier.
fn two_threads(zone: &Zone, headers: &HeaderMap) {
    let mut lines = Vec::new();
    for (name, app) in [("bare router", bare()), ("cached mandate", ours(zone))] {
        let mut one = Contestant::new(name, app.clone(), std::slice::from_ref(headers), 50_000);
        let mut rounds: Vec<f64> = Vec::new();
        one.round();
        one.rounds.clear();
        for _ in 0..7 {
            one.round();
            let both: Vec<f64> = std::thread::scope(|scope| {
                let workers: Vec<_> = (0..2)
                    .map(|_| {
                        let app = app.clone();
                        scope.spawn(move || {
                            let headers = std::slice::from_ref(headers);
                            let mut own = Contestant::new(name, app, headers, 50_000);
                            own.round();
                            own.rounds[0]
                        })
                    })
                    .collect();
                workers.into_iter().map(|worker| worker.join().unwrap()).collect()
            });
            rounds.extend(both);
        }
        rounds.sort_by(f64::total_cmp);
        lines.push((name, one.median(), rounds[rounds.len() / 2]));
    }
    println!("\n| on two threads | alone, µs | each of two, µs |\n|---|---|---|");
    for (name, alone, both) in lines {
        println!("| {name} | {alone:.2} | {both:.2} |");
    }
}
