//! Who may mint what: the decision contract of Caracal v1.0.0 over the data of a zone
//! (outbound contract §2.5). What no rule allows is denied.

use super::registry::Registered;

/// The scope that lets an application speak to the Coordinator.
pub(super) const LIFECYCLE: &str = "agent:lifecycle";

/// A mint of scopes at one resource, as policy sees it.
pub(super) struct Question<'a> {
    pub(super) application: &'a str,
    pub(super) resource: &'a str,
    pub(super) scopes: &'a [&'a str],
    /// A token was presented for somebody else.
    pub(super) subject: bool,
    pub(super) session: Option<Labels<'a>>,
    pub(super) delegated: bool,
}

/// The labels of a session: the roles that it plays.
pub(super) type Labels<'a> = &'a [String];

/// Judges; a denial is its reason.
pub(super) fn judge(zone: &Registered, question: &Question<'_>) -> Result<(), &'static str> {
    if !zone.restrictions.is_empty() {
        return Err("restriction_active");
    }
    let owned = zone.owner(question.resource) == Some(question.application);
    let lifecycle = question.scopes.contains(&LIFECYCLE);
    if question.subject {
        return Err("no_rule_matched");
    }
    match (question.session, question.delegated) {
        (None, false) => {
            let bootstrap = lifecycle && question.scopes.iter().all(|scope| *scope == LIFECYCLE);
            if bootstrap && owned { Ok(()) } else { Err("no_rule_matched") }
        }
        (Some(labels), true) if !question.scopes.is_empty() && !lifecycle => {
            judge_role(zone, labels, question)
        }
        _ => Err("no_rule_matched"),
    }
}

/// Judges the use of a mandate at the Gateway; `is_target` says whether it is for the resource.
pub(super) fn judge_use(
    zone: &Registered,
    question: &Question<'_>,
    is_target: bool,
) -> Result<(), &'static str> {
    if !zone.restrictions.is_empty() {
        return Err("restriction_active");
    }
    match question.session {
        Some(_) if !is_target => Err("mandate_target_mismatch"),
        Some(labels) if question.delegated && !question.scopes.is_empty() => {
            judge_role(zone, labels, question)
        }
        _ => Err("no_rule_matched"),
    }
}

/// Whether a session with these labels may do what is asked.
fn judge_role(
    zone: &Registered,
    labels: Labels<'_>,
    question: &Question<'_>,
) -> Result<(), &'static str> {
    if zone.owner(question.resource) != Some(question.application) {
        return Err("resource_not_granted");
    }
    if !confined(zone, labels, question.scopes) {
        return Err("confinement_violation");
    }
    let granted = labels.iter().any(|label| plays(zone, label, question));
    if granted { Ok(()) } else { Err("role_scope_mismatch") }
}

/// Whether the scopes stay within every confinement that a label falls under.
fn confined(zone: &Registered, labels: Labels<'_>, scopes: &[&str]) -> bool {
    let binding = zone
        .confinement
        .iter()
        .filter(|rule| labels.iter().any(|label| label.starts_with(&rule.label_prefix)));
    binding
        .into_iter()
        .all(|rule| scopes.iter().all(|scope| rule.scopes.iter().any(|s| s == scope)))
}

/// Whether the role `label` is granted every scope at the resource.
fn plays(zone: &Registered, label: &str, question: &Question<'_>) -> bool {
    let granted: Vec<_> = zone
        .grants
        .iter()
        .filter(|grant| grant.resource == question.resource && grant.role == *label)
        .flat_map(|grant| &grant.scopes)
        .collect();
    question.scopes.iter().all(|scope| granted.iter().any(|have| have == scope))
}
