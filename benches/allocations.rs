//! Allocations per request, and the memory of a cached proof.
//!
//! ```text
//! cargo bench --bench allocations
//! ```

mod contestants;

use allocation_counter::measure;
use axum::Router;
use contestants::{
    Zone, bare, bare_with_route_layer, headers, mandate, no_op, ours, ours_uncached,
    ours_with_requirement, prf_floor, request, send,
};

const PROOFS: usize = 10_000;

fn main() {
    let zone = Zone::new();
    let headers_of_one = headers(&mandate(&zone, 0));
    println!("| contestant | allocations per request |\n|---|---|");
    let contestants: [(&str, Router); 7] = [
        ("bare router", bare()),
        ("no-op layer", no_op()),
        ("floor: keyed PRF, moka, insert", prf_floor()),
        ("cached mandate", ours(&zone)),
        ("two no-op layers, one on the route", bare_with_route_layer()),
        ("cached, and one Require", ours_with_requirement(&zone)),
        ("uncached", ours_uncached(&zone)),
    ];
    for (name, mut app) in contestants {
        for _ in 0..100 {
            send(&mut app, request(&headers_of_one));
        }
        let info = measure(|| {
            for _ in 0..1000 {
                send(&mut app, request(&headers_of_one));
            }
        });
        println!("| {name} | {:.2} |", info.count_total as f64 / 1000.0);
    }

    let mut app = ours(&zone);
    let requests: Vec<_> = (0..PROOFS).map(|at| headers(&mandate(&zone, at))).collect();
    let info = measure(|| {
        for headers in &requests {
            send(&mut app, request(headers));
        }
    });
    let each = info.bytes_current as f64 / PROOFS as f64;
    println!(
        "\n{each:.0} bytes stay per cached proof of a {}-byte mandate",
        mandate(&zone, 0).len()
    );
}
