//! The tables of a world file.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use toml::{Spanned, Value};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WorldTable {
    #[serde(default)]
    pub(super) zones: Vec<Spanned<ZoneTable>>,
    #[serde(default, deserialize_with = "single_table")]
    pub(super) limits: LimitsTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ZoneTable {
    pub(super) id: Option<String>,
    #[serde(rename = "name")]
    _name: Option<String>,
    #[serde(default)]
    pub(super) restrict: Vec<String>,
    #[serde(default)]
    pub(super) applications: Vec<Spanned<ApplicationTable>>,
    #[serde(default)]
    pub(super) resources: Vec<Spanned<ResourceTable>>,
    #[serde(default)]
    pub(super) grants: Vec<Spanned<GrantTable>>,
    #[serde(default)]
    pub(super) confinement: Vec<ConfinementTable>,
    #[serde(default)]
    pub(super) risk: Vec<Spanned<RiskTable>>,
    #[serde(default)]
    pub(super) approvals: Vec<Spanned<ApprovalTable>>,
    #[serde(default)]
    pub(super) issuers: Vec<Spanned<IssuerTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplicationTable {
    pub(super) id: Option<String>,
    #[serde(rename = "name")]
    _name: Option<String>,
    pub(super) client_secret: Option<Secret>,
    #[serde(default)]
    pub(super) registration: Registration,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub(super) enum Registration {
    #[default]
    Managed,
    /// Dynamic client registration (RFC 7591).
    Dcr,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResourceTable {
    pub(super) id: Option<String>,
    pub(super) identifier: String,
    #[serde(default)]
    pub(super) scopes: Vec<String>,
    pub(super) upstream_url: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) forward_identity: bool,
    pub(super) credential: Option<Spanned<Credential>>,
    pub(super) api_key: Option<Spanned<Secret>>,
    pub(super) header: Option<Spanned<String>>,
    pub(super) scheme: Option<Spanned<String>>,
    pub(super) query_param: Option<Spanned<String>>,
    pub(super) bearer_token: Option<Spanned<Secret>>,
    pub(super) username: Option<Spanned<String>>,
    pub(super) password: Option<Spanned<Secret>>,
    pub(super) allowed_hosts: Option<Spanned<Vec<String>>>,
    #[serde(default)]
    pub(super) enforcement: Enforcement,
    #[serde(default)]
    pub(super) operations: Vec<Spanned<OperationTable>>,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq)]
#[serde(try_from = "Value")]
pub(super) enum Credential {
    #[default]
    None,
    CaracalMandate,
    ApiKey,
    BearerToken,
    HttpBasic,
}

#[derive(Deserialize, Default, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Enforcement {
    #[default]
    TransportUniform,
    Enforced,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OperationTable {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) scope: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GrantTable {
    pub(super) application: String,
    pub(super) resource: String,
    pub(super) role: Option<String>,
    pub(super) scopes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfinementTable {
    pub(super) label_prefix: String,
    pub(super) scopes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RiskTable {
    pub(super) scope: String,
    pub(super) tier: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApprovalTable {
    pub(super) tier: String,
    #[serde(default)]
    pub(super) approver: ApproverWord,
    pub(super) ttl_seconds: Option<Count>,
    #[serde(rename = "privacy")]
    _privacy: Option<Privacy>,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "snake_case")]
pub(super) enum ApproverWord {
    #[default]
    Operator,
    Subject,
    Any,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Privacy {
    Anonymous,
    Pseudonymous,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IssuerTable {
    pub(super) issuer: String,
    pub(super) audience: Spanned<String>,
    pub(super) jwks_url: Spanned<String>,
    pub(super) jwks_file: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsTable {
    pub(super) service_lease_seconds: Option<Count>,
    pub(super) sweep_seconds: Option<Count>,
    pub(super) sessions_per_zone: Option<Count>,
    pub(super) sessions_per_application: Option<Count>,
    pub(super) requests_per_minute: Option<Count>,
    pub(super) mints_per_minute_per_resource_and_application: Option<Count>,
}

/// A table and no list of them: serde would take a list as members without names.
fn single_table<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    struct Single<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Single<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a single table, with its name in one pair of brackets")
        }

        fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(members))
        }
    }

    from.deserialize_map(Single(PhantomData))
}

/// Text that no error may show: serde's own, for a value of another type, would.
#[derive(Deserialize)]
#[serde(try_from = "Value")]
pub(super) struct Secret(pub(super) String);

impl TryFrom<Value> for Secret {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        match value {
            Value::String(text) => Ok(Self(text)),
            _ => Err("a secret is text: it stands in quotes"),
        }
    }
}

/// A number of things or seconds.
#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "Value")]
pub(super) struct Count(pub(super) u32);

impl TryFrom<Value> for Count {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        let count = value.as_integer().and_then(|count| u32::try_from(count).ok());
        match count {
            Some(count @ 1..) => Ok(Self(count)),
            _ => Err("not a whole number from 1 to 4294967295"),
        }
    }
}

impl TryFrom<Value> for Credential {
    type Error = &'static str;

    /// Shows no value either: it may well be the credential itself.
    fn try_from(value: Value) -> Result<Self, Self::Error> {
        match value.as_str() {
            Some("none") => Ok(Self::None),
            Some("caracal_mandate") => Ok(Self::CaracalMandate),
            Some("api_key") => Ok(Self::ApiKey),
            Some("bearer_token") => Ok(Self::BearerToken),
            Some("http_basic") => Ok(Self::HttpBasic),
            _ => Err("not a kind of credential: \"none\", \"caracal_mandate\", \"api_key\", \
                      \"bearer_token\" or \"http_basic\""),
        }
    }
}
