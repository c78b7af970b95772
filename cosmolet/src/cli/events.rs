//! `cosmolet events`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::table::{printable, utc};
use super::{client, print};
use crate::args::Output;
use crate::http::status::TransitionRow;

const STREAM: &str = "/api/v1/transitions/stream?last=256";
/// The pause before a daemon is asked again that has gone.
const AGAIN: Duration = Duration::from_secs(1);

/// Prints the last decisions, and with `follow` those to come, for ever.
///
/// # Errors
/// No daemon answers there; once one has, it is waited for.
pub fn run(server: &str, follow: bool, output: Output) -> Result<ExitCode> {
    if follow {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(follow_on(server, output));
    }
    let rows: Vec<TransitionRow> = client::ask(server, "/api/v1/transitions")?;
    let lines = rows.iter().map(|row| line(row, output)).collect::<Result<String>>()?;
    print(&lines)?;
    Ok(ExitCode::SUCCESS)
}

async fn follow_on(server: &str, output: Output) -> Result<ExitCode> {
    let mut body = client::stream(server, STREAM).await?;
    let mut newest = f64::MIN;
    loop {
        newest = read(&mut body, newest, output).await?;
        eprintln!("cosmolet: the daemon at {server} is gone; waiting for it");
        body = loop {
            tokio::time::sleep(AGAIN).await;
            if let Ok(body) = client::stream(server, STREAM).await {
                break body;
            }
        };
    }
}

/// Reads server-sent events until the connection ends; what came no later than `before` was told by the connection before.
/// Returns when the newest decision was.
async fn read(body: &mut Incoming, before: f64, output: Output) -> Result<f64> {
    let (mut text, mut newest) = (Vec::new(), before);
    while let Some(Ok(frame)) = body.frame().await {
        text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(end) = text.windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = text.drain(..end + 2).collect();
            let Some(row) = decision(&String::from_utf8_lossy(&event))? else { continue };
            if row.at > before {
                print(&line(&row, output)?)?;
            }
            newest = newest.max(row.at);
        }
    }
    Ok(newest)
}

/// The decision in a server-sent event, as our own daemon writes it: each field on one line.
fn decision(event: &str) -> Result<Option<TransitionRow>> {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    match (field("event:"), field("data:")) {
        (Some("transition"), Some(data)) => {
            serde_json::from_str(data).map(Some).context("the daemon's event cannot be read; another version?")
        }
        (Some("missed"), Some(count)) => {
            eprintln!("cosmolet: {count} decisions came too fast to be followed");
            Ok(None)
        }
        // A sign of life.
        (_, _) => Ok(None),
    }
}

fn line(row: &TransitionRow, output: Output) -> Result<String> {
    Ok(match output {
        Output::Json => serde_json::to_string(row)? + "\n",
        Output::Table => {
            let why = match (&row.reason, &row.message) {
                (Some(reason), Some(message)) => format!("{reason}: {message}"),
                (Some(reason), None) => reason.clone(),
                (None, _) => String::new(),
            };
            let line = format!("{}  {:<12}  {:<20}  {why}", utc(row.at), row.to, row.vip);
            printable(line.trim_end()) + "\n"
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_a_line() {
        let row = TransitionRow {
            at: 1_790_000_000.25,
            vip: "10.50.0.7".to_owned(),
            to: "withdraw".to_owned(),
            reason: Some("NoEndpoint".to_owned()),
            message: Some("no endpoint\u{1b}[2J is usable".to_owned()),
        };
        let text = line(&row, Output::Table).unwrap();
        assert_eq!(
            text,
            "2026-09-21T14:13:20.250Z  withdraw      10.50.0.7             NoEndpoint: no endpoint\u{fffd}[2J is usable\n"
        );
        let json: TransitionRow = serde_json::from_str(&line(&row, Output::Json).unwrap()).unwrap();
        assert_eq!(json, row);
        let up = TransitionRow { to: "advertise".to_owned(), reason: None, message: None, ..row };
        assert!(line(&up, Output::Table).unwrap().ends_with("10.50.0.7\n"));
    }
}
