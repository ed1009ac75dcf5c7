//! The layer beside its floors, by criterion. `cargo bench --bench layer`

mod contestants;

use std::hint::black_box;

use axum::{Router, http::HeaderMap};
use contestants::{
    Zone, bare, bare_with_route_layer, headers, mandate, no_op, ours, ours_uncached,
    ours_with_requirement, prf_floor, raw_verification, refusals, request, send, sha256_floor,
};
use criterion::{Criterion, criterion_group, criterion_main};

fn measure(c: &mut Criterion, group: &str, name: &str, mut app: Router, requests: &[HeaderMap]) {
    let mut turn = requests.iter().cycle();
    c.benchmark_group(group).bench_function(name, |b| {
        b.iter(|| {
            let headers = turn.next().unwrap();
            black_box(send(&mut app, request(headers)))
        });
    });
}

fn layer(c: &mut Criterion) {
    let zone = Zone::new();
    let one = [headers(&mandate(&zone, 0))];
    let thousand: Vec<_> = (0..1000).map(|at| headers(&mandate(&zone, at))).collect();
    measure(c, "floor", "bare router", bare(), &one);
    measure(c, "floor", "no-op layer", no_op(), &one);
    measure(c, "floor", "SHA-256, moka, insert", sha256_floor(), &one);
    measure(c, "floor", "keyed PRF, moka, insert", prf_floor(), &one);
    measure(c, "floor", "two no-op layers, one on the route", bare_with_route_layer(), &one);
    measure(c, "layer", "cached mandate", ours(&zone), &one);
    measure(c, "layer", "cached, 1,000 in turn", ours(&zone), &thousand);
    measure(c, "layer", "cached, and one Require", ours_with_requirement(&zone), &one);
    measure(c, "layer", "uncached", ours_uncached(&zone), &one);
    let (signed, signature, key) = raw_verification(&zone, 0);
    c.benchmark_group("floor").bench_function("one aws-lc-rs verification", |b| {
        b.iter(|| key.verify_sig(black_box(signed.as_bytes()), black_box(&signature)).unwrap());
    });
    for (name, token) in refusals(&zone) {
        let mut headers = headers(token.as_deref().unwrap_or_default());
        if token.is_none() {
            headers.remove("authorization");
        }
        measure(c, "refused", name, ours(&zone), &[headers]);
    }
}

criterion_group!(benches, layer);
criterion_main!(benches);
