//! Who approves what, and whose tokens stand for users.

use std::{fs, path::Path, time::Duration};

use indexmap::IndexMap;
use serde_json::Value;
use toml::Spanned;

use super::{
    Fault, apart,
    tables::{ApprovalTable, ApproverWord, Count, IssuerTable, RiskTable},
};
use crate::embedded::{
    approvers::{ApprovalTier, Approver},
    identity::{IdentityProvider, KeySet},
    world::Zone,
};

/// The tiers of approval with their scopes, and where they stand. It must not go unnoticed that
/// nobody has to approve a risk.
pub(super) fn tiers(
    approvals: Vec<Spanned<ApprovalTable>>,
    risks: Vec<Spanned<RiskTable>>,
    zone: &Zone,
) -> Result<Vec<(usize, ApprovalTier)>, Fault> {
    let mut tiers = IndexMap::new();
    for approval in approvals {
        let (at, table) = apart(approval);
        if tiers.contains_key(&table.tier) {
            return Err(Fault::new(at, format!("the tier `{}` is there already", table.tier)));
        }
        tiers.insert(table.tier.clone(), (at, tier(table)));
    }
    for risk in risks {
        let (at, RiskTable { scope, tier }) = apart(risk);
        let fault = |what: String| Err(Fault::new(at, what));
        if !zone.resources.iter().any(|resource| resource.declares(&scope)) {
            return fault(format!("a risk of `{scope}`, which no resource of the zone declares"));
        }
        if tiers.values().any(|(_, tier)| tier.scopes.contains(&scope)) {
            return fault(format!("the scope `{scope}` has a tier already"));
        }
        let Some((_, found)) = tiers.get_mut(&tier) else {
            return fault(format!(
                "the tier `{tier}` has no approval policy: it needs [[zones.approvals]] with that tier"
            ));
        };
        found.scopes.push(scope);
    }
    Ok(tiers.into_values().collect())
}

fn tier(table: ApprovalTable) -> ApprovalTier {
    let approver = match table.approver {
        ApproverWord::Operator => Approver::Operator,
        ApproverWord::Subject => Approver::Subject,
        ApproverWord::Any => Approver::Any,
    };
    let tier = ApprovalTier::new(table.tier).approver(approver);
    match table.ttl_seconds {
        Some(Count(seconds)) => tier.ttl(Duration::from_secs(seconds.into())),
        None => tier,
    }
}

pub(super) fn provider(
    table: IssuerTable,
    folder: Option<&Path>,
) -> Result<IdentityProvider, Fault> {
    table.check()?;
    let provider = IdentityProvider::new(table.issuer, table.audience.into_inner())
        .keys_at(table.jwks_url.into_inner());
    let Some(file) = table.jwks_file else { return Ok(provider) };
    let (at, file) = apart(file);
    let folder = folder.ok_or_else(|| {
        Fault::new(at, "`jwks_file` stands beside the file of the world: this world is in none")
    })?;
    let text = fs::read_to_string(folder.join(&file))
        .map_err(|error| Fault::new(at, format!("`{file}` cannot be read: {error}")))?;
    let document: Option<Value> = serde_json::from_str(&text).ok();
    let document = document.filter(|document| KeySet::read(document).is_some());
    let document =
        document.ok_or_else(|| Fault::new(at, format!("`{file}` is no key document")))?;
    Ok(provider.keys(document))
}
