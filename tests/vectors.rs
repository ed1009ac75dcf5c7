//! Recorded verdicts of Caracal v1.0.0, through the same code as the `conformance` example.

#[path = "../examples/conformance/judge.rs"]
mod judge;

use serde_json::{Value, json};

fn load(name: &str) -> Value {
    let path = format!("{}/tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A named key endpoint of a vector file; a redirect is an answer that is not 200.
fn endpoint(file: &Value, name: &Value) -> Value {
    let mut jwks = file["jwks"][name.as_str().unwrap()].clone();
    assert!(jwks.is_object(), "no jwks {name}");
    if jwks.get("redirect_to").is_some() {
        jwks["status"] = json!(302);
    }
    jwks
}

/// Whether the crate's answer is the expected one, or one of the others that are right as well.
fn verdict(answer: &Value, expect: &Value) -> Result<(), String> {
    let code = &expect["code"];
    if answer.get("refused_configuration").is_some() {
        return if code == "ok" { Err("refused the configuration".into()) } else { Ok(()) };
    }
    let also = expect["latitude"].as_array().into_iter().flatten();
    if !also.chain([code]).any(|code| *code == answer["code"]) {
        return Err(format!("expected {code}, got {answer}"));
    }
    if answer["code"] == *code {
        if answer["status"] != expect["status"] {
            return Err(format!("expected {}, got {answer}", expect["status"]));
        }
        if code == "ok" && expect.get("claims").is_some_and(|claims| *claims != answer["claims"]) {
            return Err(format!("expected {}, got {}", expect["claims"], answer["claims"]));
        }
    }
    Ok(())
}

fn report(failures: &[String], total: usize, expected: usize) {
    assert!(failures.is_empty(), "{} of {total}:\n{}", failures.len(), failures.join("\n"));
    assert_eq!(total, expected);
}

async fn verify_vectors(repeat: u32) {
    let file = load("verify.json");
    let mut failures = Vec::new();
    let cases = file["cases"].as_array().unwrap();
    for case in cases {
        let authorization = match case.get("token") {
            Some(token) => json!(format!("Bearer {}", token.as_str().unwrap())),
            None => case["authorization"].clone(),
        };
        let line = json!({
            "id": case["name"], "kind": "verify", "authorization": authorization,
            "jwks": endpoint(&file, &case["jwks"]), "options": case["options"], "now": case["now"],
            "repeat": repeat,
        });
        let answer = judge::answer(line).await;
        if let Err(failure) = verdict(&answer, &case["expect"]) {
            failures.push(format!("{}: {failure}", case["name"]));
        }
        let fetched = answer["jwks_fetched"].as_array().map_or(0, Vec::len);
        if fetched > 1 {
            failures.push(format!("{}: {fetched} fetches", case["name"]));
        }
        if let (Some(urls), 1) = (case["jwks_url"]["go"].as_array(), fetched)
            && !urls.contains(&answer["jwks_fetched"][0])
        {
            failures.push(format!("{}: fetched {}", case["name"], answer["jwks_fetched"]));
        }
    }
    report(&failures, cases.len(), 663);
}

#[tokio::test]
async fn recorded_verdicts() {
    verify_vectors(1).await;
}

#[tokio::test]
async fn recorded_verdicts_repeated() {
    verify_vectors(3).await;
}

#[tokio::test]
async fn tokens_of_a_real_sts() {
    let file = load("real_tokens.json");
    let mut failures = Vec::new();
    let mut total = 0;
    for token in file["tokens"].as_array().unwrap() {
        for check in token["checks"].as_array().unwrap() {
            total += 1;
            let line = json!({
                "id": total, "kind": "verify",
                "authorization": format!("Bearer {}", token["token"].as_str().unwrap()),
                "jwks": endpoint(&file, &check["jwks"]), "options": check["options"],
                "now": check["now"], "repeat": 2,
            });
            let answer = judge::answer(line).await;
            if let Err(failure) = verdict(&answer, &check["expect"]) {
                failures.push(format!("{} {}: {failure}", token["name"], check["why"]));
            }
        }
    }
    report(&failures, total, 346);
}

/// With the key endpoint down, a token that gets as far as its key is answered 503.
#[tokio::test]
async fn nothing_is_fetched_for_a_token_that_fails_before_its_key() {
    let file = load("verify.json");
    let families = ["alg", "header", "encoding", "dup", "exp", "kid", "trust", "bearer"];
    let mut fetched = Vec::new();
    let mut judged = 0;
    for case in file["cases"].as_array().unwrap() {
        let refused = case["expect"]["code"] != "ok" && case["expect"].get("latitude").is_none();
        if !refused || !families.contains(&case["family"].as_str().unwrap()) {
            continue;
        }
        let authorization = match case.get("token") {
            Some(token) => json!(format!("Bearer {}", token.as_str().unwrap())),
            None => case["authorization"].clone(),
        };
        let line = json!({
            "kind": "verify", "authorization": authorization, "now": case["now"],
            "jwks": {"error": true}, "options": case["options"],
        });
        judged += 1;
        if judge::answer(line).await["code"] == "verification_unavailable" {
            fetched.push(case["name"].as_str().unwrap());
        }
    }
    // Only a key tells what is wrong with these: the header and the claims checked first are good.
    let need_a_key = [
        "alg.ES256-rsa-kid",
        "alg.ES256-sha384",
        "kid.unknown",
        "kid.case",
        "kid.other-keys-kid",
        "kid.path",
        "kid.stranger-key",
        "encoding.payload-of-another",
        "bearer.insufficient-scope-through-adapter",
        "bearer.revoked-through-adapter",
    ];
    assert_eq!(fetched, need_a_key);
    assert!(judged > 150, "{judged}");
}

#[tokio::test]
async fn envelopes() {
    let file = load("envelope.json");
    let cases = file["cases"].as_array().unwrap();
    let mut failures = Vec::new();
    let mut total = 0;
    for case in cases {
        total += 1;
        if case["wire_legal"] == json!(false) {
            continue;
        }
        let line = json!({
            "id": 0, "kind": "envelope", "headers": case["headers"], "existing": case["existing"],
        });
        let answer = judge::answer(line).await;
        if let Some(failure) = answer.get("failure") {
            failures.push(format!("{}: {failure}", case["name"]));
            continue;
        }
        if case["non_ascii"] == json!(true) {
            continue;
        }
        let mut expect = case["expect"].clone();
        if let Some(hop) = case["hop_by_max"].get("32") {
            expect["decoded"]["hop"] = hop.clone();
            for headers in ["outbound", "outbound_merged"] {
                for header in expect[headers].as_array_mut().into_iter().flatten() {
                    let value = header[1].as_str().unwrap();
                    header[1] =
                        json!(value.replace("caracal.hop=10", &format!("caracal.hop={hop}")));
                }
            }
        }
        if answer["decoded"] != expect["decoded"] {
            failures
                .push(format!("{}: {} not {}", case["name"], answer["decoded"], expect["decoded"]));
        }
        for headers in ["outbound", "outbound_merged"] {
            if !expect[headers].is_null() && !same_headers(&answer[headers], &expect[headers]) {
                failures
                    .push(format!("{}: {} not {}", case["name"], answer[headers], expect[headers]));
            }
        }
    }
    report(&failures, total, 221);
}

/// `S` and `T` in an expected traceparent stand for any lower-case hex digit.
fn same_headers(answer: &Value, expect: &Value) -> bool {
    let (answer, expect) = (answer.as_array().unwrap(), expect.as_array().unwrap());
    let same_value = |answer: &str, expect: &str| {
        answer.len() == expect.len()
            && answer.chars().zip(expect.chars()).all(|(got, expected)| match expected {
                'S' | 'T' => matches!(got, '0'..='9' | 'a'..='f'),
                _ => got == expected,
            })
    };
    answer.len() == expect.len()
        && answer.iter().zip(expect).all(|(answer, expect)| {
            let (got, expected) = (answer[1].as_str().unwrap(), expect[1].as_str().unwrap());
            answer[0] == expect[0]
                && if expect[0] == "traceparent" {
                    same_value(got, expected)
                } else {
                    got == expected
                }
        })
}

#[tokio::test]
async fn lines_that_are_no_cases_answer_a_failure() {
    for line in
        [&b"x"[..], b"{}", b"[]", br#"{"kind":"other"}"#, br#"{"id":4,"kind":"verify","now":"x"}"#]
    {
        let answer = judge::answer_line(line).await;
        assert!(answer["failure"].is_string(), "{answer}");
    }
    let answer = judge::answer_line(br#"{"id":4,"kind":"verify","now":"x"}"#).await;
    assert_eq!(answer["id"], 4);
}
