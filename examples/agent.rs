//! smoke
use caracal_axum::{CaracalError, DelegationConstraints, Grant, embedded::EmbeddedCaracal};
#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let embedded = EmbeddedCaracal::builder().start().await?;
    let caracal = embedded.client("app-1")?;
    let _ = caracal.on_event(|e| println!("{e:?}"));
    let c2 = caracal.clone();
    let r: Result<u32, CaracalError> = tokio::spawn(async move {
        let caracal = c2;
        caracal
            .spawn()
            .labels(["orchestrator"])
            .try_run(async |parent| {
                println!("{parent:?}");
                caracal
                    .spawn()
                    .labels(["reader"])
                    .grant(
                        Grant::narrow(["tickets:read"])
                            .resource("resource://tickets")
                            .constraints(DelegationConstraints::new().max_hops(1)),
                    )
                    .try_run(async |child| {
                        println!("{child:?} {:?}", caracal.describe_authority(None));
                        let m =
                            caracal.mint_mandate("resource://tickets", ["tickets:read"]).await?;
                        println!("{m:?} {:?}", caracal.headers().await?);
                        Ok::<_, CaracalError>(1)
                    })
                    .await
            })
            .await
    })
    .await?;
    println!("{r:?}");
    caracal.close().await;
    Ok(())
}
