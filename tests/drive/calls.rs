//! The steps that call a resource through the Gateway, or any other host.

use caracal_axum::{CaracalError, TransportRequest};
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

use super::{
    client::{Client, Failure, seconds, texts},
    steps::text,
};

/// What came of each request of a step.
pub(super) async fn transport(client: &Client, step: &Value, third: &str) -> Value {
    let mut transport = client.caracal.transport();
    if step.get("scopes").is_some() {
        transport = transport.scopes(texts(&step["scopes"]));
    }
    if step["as_application"] == true {
        transport = transport.allow_root();
    }
    if step["propagation"] == "always" {
        transport = transport.propagate_to(third).unwrap();
    }
    all(step, |method, url| transport.request(method, url)).await
}

/// The same, as the application itself.
pub(super) async fn app_transport(client: &Client, step: &Value) -> Value {
    let mut transport =
        client.caracal.application_transport(text(step, "resource"), texts(&step["scopes"]));
    if step.get("labels").is_some() {
        transport = transport.labels(texts(&step["labels"]));
    }
    if let Some(ttl) = seconds(&step["mandate_ttl"]) {
        transport = transport.ttl(ttl);
    }
    all(step, |method, url| transport.request(method, url)).await
}

pub(super) async fn fetch(client: &Client, step: &Value) -> Result<Value, Failure> {
    let transport = client.caracal.transport().scopes(texts(&step["scopes"]));
    let request = transport.fetch(text(step, "resource"), text(step, "path"));
    Ok(json!([send(request.method(method(step)), step).await?]))
}

/// Where the Gateway is asked, and the headers for that.
pub(super) fn gateway_request(
    client: &Client,
    step: &Value,
) -> Result<(String, http::HeaderMap), Failure> {
    let request = client.caracal.gateway_request(text(step, "resource"), text(step, "path"))?;
    Ok((request.url.into(), request.headers))
}

async fn all(step: &Value, request: impl Fn(Method, &str) -> TransportRequest) -> Value {
    let requests = step["requests"].as_array().unwrap();
    let calls = requests.iter().map(async |asked| {
        let sent = send(request(method(asked), text(asked, "url")), asked).await;
        sent.map_or_else(|error| Failure::from(error).recorded(), Value::from)
    });
    if step["concurrent"] == true {
        return join_all(calls).await.into();
    }
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await);
    }
    answers.into()
}

/// The status of the answer, which is read to its end.
async fn send(mut request: TransportRequest, asked: &Value) -> Result<u16, CaracalError> {
    for (name, value) in asked["headers"].as_object().into_iter().flatten() {
        request = request.header(name.as_str(), value.as_str().unwrap());
    }
    if let Some(body) = asked["body"].as_str() {
        request = request.body(body.to_owned());
    }
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    answer.bytes().await.unwrap();
    Ok(status)
}

fn method(asked: &Value) -> Method {
    asked["method"].as_str().map_or(Method::GET, |method| method.parse().unwrap())
}
