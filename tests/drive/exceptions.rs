//! Where this client does otherwise than those recorded, on purpose.

/// An action that goes otherwise here.
pub(crate) struct Exception {
    pub(crate) action: &'static str,
    pub(crate) why: &'static str,
    pub(crate) requests: &'static [&'static str],
    /// What came of each step. One that never came to its end is `cancelled`.
    pub(crate) results: &'static [&'static str],
    pub(crate) left_behind: &'static [&'static str],
}

const TOKEN: &str = "POST /oauth/2/token -> 200";
const START: &str = "POST /agents -> 201";
const DELEGATE: &str = "POST /delegations -> 201";
const END: &str = "DELETE /agents/* -> 204";

/// A call through the Gateway, with what it tells of itself.
macro_rules! call {
    ($call:literal, $hop:literal) => {
        concat!(
            "gateway ",
            $call,
            " authorization caracal.agent_session=*,caracal.delegation_edge=*,caracal.hop=",
            $hop,
            " traceparent x-caracal-resource",
        )
    };
}

/// Their sessions are ended while others are started.
pub(crate) const IN_ANY_ORDER: [&str; 1] = ["app-transport-pair-gone"];

/// Each differs from the recording, or the test fails.
#[rustfmt::skip]
pub(crate) const EXCEPTIONS: [Exception; 37] = [
    Exception {
        action: "narrow-without-parent",
        why: "a narrow without a parent is noticed before anything is started",
        requests: &[],
        results: &["session other"],
        left_behind: &[],
    },
    Exception {
        action: "body-panics",
        why: "a session is ended when its body panics",
        requests: &[TOKEN, START, END],
        results: &["recover body", "session cancelled", "panic ok"],
        left_behind: &[],
    },
    Exception {
        action: "cancel-start",
        why: "the answer of a start that was given up is awaited, and the session ended",
        requests: &[TOKEN, START, END],
        results: &["session cancelled", "sleep ok"],
        left_behind: &[],
    },
    Exception {
        action: "cancel-narrow",
        why: "so is the answer of the delegation, which the recorded client breaks off",
        requests: &[TOKEN, START, START, DELEGATE, END, END],
        results: &["session ok", "session cancelled", "sleep ok"],
        left_behind: &[],
    },
    Exception {
        action: "sts-redirect",
        why: "a redirect is not followed: it is an error, whatever its body says",
        requests: &["POST /oauth/2/token -> 307", TOKEN, START, END],
        results: &["session unexpected_redirect", "session ok"],
        left_behind: &[],
    },
    Exception {
        action: "start-redirect",
        why: "a redirect is not followed: it is an error, whatever its body says",
        requests: &[TOKEN, "POST /agents -> 307"],
        results: &["session unexpected_redirect"],
        left_behind: &[],
    },
    Exception {
        action: "start-redirect-same-address",
        why: "a redirect is not followed: it is an error, whatever its body says",
        requests: &[TOKEN, "POST /agents -> 307"],
        results: &["session unexpected_redirect"],
        left_behind: &[],
    },
    Exception {
        action: "start-lost-then-401",
        why: "a start whose answer was lost names, under a new token, the record of the first, and \
              so is answered again instead of being refused",
        requests: &[
            TOKEN, START, "POST /agents -> 401", TOKEN, "POST /agents -> 201 replayed", END,
        ],
        results: &["session ok"],
        left_behind: &[],
    },
    Exception {
        action: "narrow-500",
        why: "the delegation of a narrow is tried again under its key",
        requests: &[TOKEN, START, START, "POST /delegations -> 500", DELEGATE, END, END],
        results: &["session ok", "session ok"],
        left_behind: &[],
    },
    Exception {
        action: "narrow-500-and-cleanup-500",
        why: "the delegation is tried again, and so is the end of the child",
        requests: &[
            TOKEN, START, START, "POST /delegations -> 500", DELEGATE,
            "DELETE /agents/* -> 500", END, END,
        ],
        results: &["session ok", "session ok"],
        left_behind: &[],
    },
    Exception {
        action: "narrow-answer-lost",
        why: "the delegation of a narrow is tried again under its key",
        requests: &[
            TOKEN, START, START, DELEGATE, "POST /delegations -> 201 replayed", END, END,
        ],
        results: &["session ok", "session ok"],
        left_behind: &[],
    },
    Exception {
        action: "narrow-401",
        why: "a token that is refused for a delegation is replaced, once",
        requests: &[TOKEN, START, START, "POST /delegations -> 401", TOKEN, DELEGATE, END, END],
        results: &["session ok", "session ok"],
        left_behind: &[],
    },
    Exception {
        action: "delegate-401",
        why: "a token that is refused for a delegation is replaced, once",
        requests: &[TOKEN, START, START, "POST /delegations -> 401", TOKEN, DELEGATE, END, END],
        results: &["service ok", "session ok", "delegate ok", "close_handle ok"],
        left_behind: &[],
    },
    Exception {
        action: "end-401",
        why: "a token that is refused for an end is replaced, once",
        requests: &[TOKEN, START, "DELETE /agents/* -> 401", TOKEN, END],
        results: &["session ok"],
        left_behind: &[],
    },
    Exception {
        action: "end-401-body-failed",
        why: "a token that is refused for an end is replaced, once",
        requests: &[TOKEN, START, "DELETE /agents/* -> 401", TOKEN, END],
        results: &["session body", "fail body"],
        left_behind: &[],
    },
    Exception {
        action: "service-end-401",
        why: "a token that is refused for an end is replaced, once",
        requests: &[TOKEN, START, "DELETE /agents/* -> 401", TOKEN, END],
        results: &["service ok", "close_handle ok", "close_handle ok"],
        left_behind: &[],
    },
    Exception {
        action: "end-500",
        why: "an end that failed is tried again",
        requests: &[TOKEN, START, "DELETE /agents/* -> 500", END],
        results: &["session ok"],
        left_behind: &[],
    },
    Exception {
        action: "end-cut",
        why: "an end that was not answered is tried again",
        requests: &[TOKEN, START, "DELETE /agents/* -> cut", END],
        results: &["session ok"],
        left_behind: &[],
    },
    Exception {
        action: "end-answer-lost",
        why: "an end that was not answered is tried again, and 404 says that it had succeeded",
        requests: &[TOKEN, START, END, "DELETE /agents/* -> 404"],
        results: &["session ok"],
        left_behind: &[],
    },
    Exception {
        action: "revoke-then-wait",
        why: "a revocation may take the client's own token along: it is not used any more",
        requests: &[
            TOKEN, START, START, START, DELEGATE, "PATCH /delegations/*/revoke -> 200",
            "POST /oauth/2/token -> 403", TOKEN, "POST /agents/*/heartbeat -> 200",
            START, END, END, END, "DELETE /agents/* -> 404",
        ],
        results: &[
            "service ok", "service ok", "session ok", "delegate ok", "revoke ok", "sleep ok",
            "with_ctx ok", "accept ok", "mint access_denied", "heartbeat ok", "session ok",
            "close_handle ok", "close_handle ok",
        ],
        left_behind: &[],
    },
    Exception {
        action: "revoke-then-end",
        why: "a revocation may take the client's own token along: it is not used any more",
        requests: &[
            TOKEN, START, START, DELEGATE, "PATCH /delegations/*/revoke -> 200",
            TOKEN, END, START, END,
        ],
        results: &["service ok", "session ok", "delegate ok", "revoke ok", "sleep ok", "session ok"],
        left_behind: &[],
    },
    Exception {
        action: "attach-answer-lost",
        why: "a takeover that was not answered is tried again, so that somebody holds the lease: \
              the one who took it over last, and who does not end the service here",
        requests: &[
            TOKEN, START, "POST /agents/*/lease -> 200", "POST /agents/*/lease -> 200",
            "DELETE /agents/* -> 409",
        ],
        results: &["service ok", "attach ok", "close_handle ok"],
        left_behind: &["service active"],
    },
    Exception {
        action: "beat-other-generation",
        why: "a generation above the known one is taken over from the answer to a beat; this one was \
              made up on the way, and so the service is fenced",
        requests: &[
            TOKEN, START, "POST /agents/*/heartbeat -> 200", "POST /agents/*/heartbeat -> 409",
            "DELETE /agents/* -> 409",
        ],
        results: &["service ok", "heartbeat ok", "heartbeat session_lease_fenced", "close_handle ok"],
        left_behind: &["service active"],
    },
    Exception {
        action: "bind-and-carry-on",
        why: "session and delegation that a request names without proof are not those of a mint",
        requests: &[
            TOKEN,
            "third GET /x -> 200 caracal.agent_session=in-session,caracal.delegation_edge=in-edge,\
             caracal.hop=3,caracal.parent_edge=in-parent,caracal.session=in-record,tenant=t%201,\
             user=u%C3%A4 traceparent tracestate",
            "third GET /x -> 200",
            "POST /oauth/2/token -> 403",
        ],
        results: &[
            "mint ok", "bind ok", "headers ok", "describe ok", "transport 200", "transport 200",
            "mint access_denied",
        ],
        left_behind: &[],
    },
    Exception {
        action: "bind-then-child",
        why: "hop and record that a request names without proof are not those of a session",
        requests: &[TOKEN, TOKEN, START, END],
        results: &["mint ok", "bind ok", "session ok", "headers ok"],
        left_behind: &[],
    },
    Exception {
        action: "redirect-relative",
        why: "a redirect is not followed: it is the answer",
        requests: &[
            TOKEN, START, START, DELEGATE,
            TOKEN, call!("GET /redirect -> 302", "1"),
            TOKEN, call!("GET /redirect -> 302", "1"),
            END, END,
        ],
        results: &["session ok", "session ok", "transport 302 302"],
        left_behind: &[],
    },
    Exception {
        action: "redirect-elsewhere",
        why: "a redirect is not followed: it is the answer",
        requests: &[
            TOKEN, START, START, DELEGATE,
            TOKEN, concat!(call!("GET /entries/1 -> 307", "1"), " x-own"),
            TOKEN, call!("GET /entries/1 -> 307", "1"),
            END, END,
        ],
        results: &["session ok", "session ok", "transport 307 307"],
        left_behind: &[],
    },
    Exception {
        action: "redirect-to-gateway",
        why: "a redirect is not followed: it is the answer",
        requests: &[
            TOKEN, START, START, DELEGATE,
            "third GET /redirect?to=http://*/entries/1 -> 302",
            END, END,
        ],
        results: &["session ok", "session ok", "transport 302"],
        left_behind: &[],
    },
    Exception {
        action: "redirect-to-bound",
        why: "a redirect is not followed: it is the answer",
        requests: &[
            TOKEN, START, START, DELEGATE,
            "third GET /redirect?to=http://*/v1/entries/1 -> 302",
            END, END,
        ],
        results: &["session ok", "session ok", "transport 302"],
        left_behind: &[],
    },
    Exception {
        action: "call-other-spellings",
        why: "a URL with user or password is not sent anywhere",
        requests: &[
            TOKEN, START, START, DELEGATE,
            "upstream GET /v1/entries -> 200 host", "upstream GET /v1beta/x -> 200",
            TOKEN, call!("GET / -> 200", "1"),
            TOKEN, call!("GET / -> 200", "1"),
            TOKEN, call!("GET /x -> 200", "1"),
            END, END,
        ],
        results: &["session ok", "session ok", "transport 200 200 200 200 other 200"],
        left_behind: &[],
    },
    Exception {
        action: "call-dot-segments",
        why: "a path with dot segments or a backslash, encoded or not, is not sent anywhere",
        requests: &[
            TOKEN, START, START, DELEGATE,
            END, END,
        ],
        results: &["session ok", "session ok", "transport other other other other other"],
        left_behind: &[],
    },
    Exception {
        action: "call-escapes",
        why: "a path that the Gateway would refuse is refused, and not sent around it; the \
              others go as they are written",
        requests: &[
            TOKEN, START, START, DELEGATE,
            TOKEN, call!("GET /a%2Fb/c%20d?x=%20&y=a%2Fb -> 200", "1"),
            TOKEN, call!("GET /a%3Fb -> 200", "1"),
            TOKEN, call!("GET /%C3%A4 -> 200", "1"),
            TOKEN, call!("GET /x? -> 200", "1"),
            END, END,
        ],
        results: &["session ok", "session ok", "transport 200 other 200 200 200"],
        left_behind: &[],
    },
    Exception {
        action: "app-transport-no-gateway",
        why: "a call with scopes is refused where there is no Gateway, and not sent around it",
        requests: &[
            TOKEN, START, START, DELEGATE,
            END, END,
        ],
        results: &["app_transport other", "gateway_request other", "session ok", "session ok", "transport other"],
        left_behind: &[],
    },
    Exception {
        action: "app-transport-401",
        why: "a token that is refused for a start is replaced, once",
        requests: &[
            TOKEN, "POST /agents -> 401",
            TOKEN, START, START, DELEGATE,
            TOKEN, call!("GET /entries/42?expand=tags -> 200", "0"),
            TOKEN, call!("GET /entries/42?expand=tags -> 200", "0"),
        ],
        results: &["app_transport 200", "app_transport 200"],
        left_behind: &["task active", "task active"],
    },
    Exception {
        action: "app-transport-target-start-500",
        why: "a start is tried again under its key",
        requests: &[
            TOKEN, START, "POST /agents -> 500", START, DELEGATE,
            TOKEN, call!("GET /entries/42?expand=tags -> 200", "0"),
        ],
        results: &["app_transport 200"],
        left_behind: &["task active", "task active"],
    },
    Exception {
        action: "app-transport-start-answer-lost",
        why: "a start is tried again under its key",
        requests: &[
            TOKEN, START, "POST /agents -> 201 replayed", START, DELEGATE,
            TOKEN, call!("GET /entries/42?expand=tags -> 200", "0"),
        ],
        results: &["app_transport 200"],
        left_behind: &["task active", "task active"],
    },
    Exception {
        action: "app-transport-pair-gone",
        why: "a pair that others ended is replaced by another, once",
        requests: &[
            TOKEN, START, START, DELEGATE,
            TOKEN, call!("GET /entries/42?expand=tags -> 200", "0"),
            "POST /oauth/2/token -> 403",
            START, "DELETE /agents/* -> 404", "DELETE /agents/* -> 404", START, DELEGATE,
            TOKEN, call!("GET /entries/42?expand=tags -> 200", "0"),
            TOKEN, call!("GET /entries/42?expand=tags -> 200", "0"),
            END, END,
        ],
        results: &["app_transport 200", "sleep ok", "app_transport 200", "app_transport 200", "close ok"],
        left_behind: &[],
    },
];
