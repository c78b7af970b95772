//! The status page: three files of the binary, which ask for nothing that is not this daemon's.

use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse, Response};

/// The page may load and ask for what comes from here alone, and nobody may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// What somebody is told who asks by hand.
const INDEX: &str = "cosmolet\n\n/                the status page, for a browser\n/livez           the control loop turns\n\
     /readyz          VIPs are decided and FRR answers\n/metrics         OpenMetrics\n\
     /api/v1/status   everything, as JSON; /api/v1/node: the same without VIPs\n\
     /api/v1/vips     the VIPs in brief, as JSON; ?after=REVISION: those that have changed since\n\
     /api/v1/advertised   the VIPs that this node advertises, as JSON\n\
     /api/v1/explain/VIP  why this VIP is advertised or not, as JSON\n\
     /api/v1/transitions  the last decisions, as JSON; /api/v1/transitions/stream: and those to come, as they happen\n\
     /api/v1/record       what the engine is told and decides from now on, for cosmolet replay, as lines of JSON\n";

/// The page for whoever accepts HTML, and a list of what there is for everybody else.
pub(super) async fn index(headers: HeaderMap) -> Response {
    let accepted = headers.get(header::ACCEPT).and_then(|accepted| accepted.to_str().ok()).unwrap_or_default();
    if accepted.contains("text/html") {
        file("text/html; charset=utf-8", include_str!("page/index.html"))
    } else {
        file("text/plain; charset=utf-8", INDEX)
    }
}

pub(super) async fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("page/page.css"))
}

pub(super) async fn script() -> Response {
    file("text/javascript; charset=utf-8", include_str!("page/page.js"))
}

fn file(content_type: &'static str, text: &'static str) -> Response {
    let headers: [(HeaderName, &str); 6] = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Another version of the daemon has another page.
        (header::CACHE_CONTROL, "no-cache"),
        (header::VARY, "accept"),
    ];
    (headers, text).into_response()
}
