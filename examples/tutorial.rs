//! smoke
use axum::{Router, routing::get};
use caracal_axum::embedded::{Application, EmbeddedCaracal, Grant, Resource, World, Zone};
#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let up = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        axum::serve(
            listener,
            Router::new()
                .route("/v1/tickets", get(|h: http::HeaderMap| async move { format!("{h:?}") })),
        )
        .await
    });
    let zone = Zone::new("zone-1")
        .application(Application::new("app-1"))
        .resource(Resource::new("resource://tickets").scopes(["tickets:read"]).upstream(&up))
        .grant(Grant::new("app-1", "resource://tickets").role("app-1").scopes(["tickets:read"]));
    let embedded = EmbeddedCaracal::builder().world(World::new().zone(zone)).start().await?;
    let caracal = embedded
        .client_builder("app-1")
        .resource("resource://tickets", "https://tickets.internal", ["tickets:read"])
        .on_event(|e| eprintln!("{e:?}"))
        .build()?;
    caracal
        .spawn()
        .run(async |_| {
            for _ in 0..2 {
                let a = caracal
                    .transport()
                    .get("https://tickets.internal/v1/tickets")
                    .send()
                    .await
                    .unwrap();
                println!("{} {:?}", a.status(), a.text().await);
            }
        })
        .await?;
    let a =
        caracal.transport().allow_root().get("https://tickets.internal/v1/tickets").send().await?;
    println!("{} {:?}", a.status(), a.text().await);
    let a = caracal
        .transport()
        .allow_root()
        .fetch("resource://tickets", "/v1/tickets?x=1")
        .send()
        .await?;
    println!("{} {:?}", a.status(), a.text().await);
    caracal.close().await;
    Ok(())
}
