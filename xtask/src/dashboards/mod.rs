//! `cargo xtask dashboards`: Grafana's dashboards in `charts/cosmolet/dashboards/`, made from the table of panels.
//!
//! Owns the layout and Grafana's JSON. What a panel shows is [`panels`]'.

mod panels;

use anyhow::Result;
use serde_json::{Value, json};

use crate::generated::Options;
use panels::{BOARDS, Board, Kind, Panel};

/// The width of Grafana's grid.
const GRID: u64 = 24;

/// Writes the dashboards, or compares them.
pub fn run(options: &Options) -> Result<()> {
    BOARDS.iter().try_for_each(|board| {
        let path = format!("charts/cosmolet/dashboards/{}.json", board.uid);
        options.keep(&path, &format!("{:#}\n", document(board)), "dashboards")
    })
}

fn document(board: &Board) -> Value {
    json!({
        "uid": board.uid,
        "title": board.title,
        "description": board.description,
        "tags": ["cosmolet"],
        "schemaVersion": 39,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "links": [{"type": "dashboards", "tags": ["cosmolet"], "title": "cosmolet", "asDropdown": false, "includeVars": true,
                   "keepTime": true, "icon": "external link", "tooltip": "", "targetBlank": false}],
        "templating": {"list": variables(board)},
        "annotations": {"list": [transitions(board)]},
        "panels": laid_out(board.panels),
    })
}

fn source() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

fn variables(board: &Board) -> Vec<Value> {
    let mut list =
        vec![json!({"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"})];
    for (name, query, many) in board.variables {
        list.push(json!({
            "name": name, "label": name, "type": "query", "datasource": source(), "refresh": 2, "sort": 1,
            "query": {"query": query, "refId": name}, "definition": query,
            "multi": many, "includeAll": many, "allValue": if *many { ".*" } else { "" },
        }));
    }
    list
}

/// A mark at each decision that changed.
fn transitions(board: &Board) -> Value {
    json!({
        "name": "decisions", "datasource": source(), "enable": true, "iconColor": "orange",
        "expr": board.annotation, "step": "15s", "titleFormat": "{{to}} {{reason}}", "textFormat": "{{node}}",
        "tagKeys": "node",
    })
}

/// From left to right, row by row, each row as high as its highest panel.
fn laid_out(panels: &[Panel]) -> Vec<Value> {
    let (mut x, mut y, mut highest) = (0, 0, 0);
    let mut found = Vec::new();
    for (panel, id) in panels.iter().zip(1_u64..) {
        if x + panel.width > GRID {
            (x, y, highest) = (0, y + highest, 0);
        }
        let height = panel.kind.height();
        found.push(panel_json(panel, id, &json!({"x": x, "y": y, "w": panel.width, "h": height})));
        (x, highest) = (x + panel.width, highest.max(height));
    }
    found
}

fn panel_json(panel: &Panel, id: u64, place: &Value) -> Value {
    let instant = matches!(panel.kind, Kind::Stat | Kind::Table);
    let targets: Vec<Value> = panel
        .queries
        .iter()
        .zip('A'..)
        .map(|((expr, legend), letter)| {
            json!({
                "refId": letter.to_string(), "datasource": source(), "expr": expr, "legendFormat": legend,
                "instant": instant, "range": !instant, "format": if panel.kind == Kind::Table { "table" } else { "time_series" },
            })
        })
        .collect();
    json!({
        "id": id, "title": panel.title, "description": panel.description, "type": panel.kind.as_str(),
        "datasource": source(), "gridPos": place, "targets": targets,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "noValue": panel.empty.unwrap_or("no data")}, "overrides": []},
        "options": options(panel.kind),
    })
}

/// All that Grafana's types require, its defaults included: what they lack is an error to whoever reads them strictly.
fn options(kind: Kind) -> Value {
    let legend = json!({"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []});
    let tooltip = |mode: &str| json!({"mode": mode, "sort": "none"});
    match kind {
        Kind::Stat => json!({
            "reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area", "justifyMode": "auto",
            "textMode": "auto", "wideLayout": true, "showPercentChange": false, "percentChangeColorMode": "standard",
            "orientation": "auto",
        }),
        Kind::Series => json!({"legend": legend, "tooltip": tooltip("multi")}),
        Kind::Table => json!({"frameIndex": 0, "showHeader": true, "cellHeight": "sm"}),
        Kind::Timeline => json!({
            "mergeValues": true, "showValue": "never", "rowHeight": 0.9, "legend": legend, "tooltip": tooltip("single"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_panel_leaves_the_grid_and_each_says_what_it_is_for() {
        for board in &BOARDS {
            for panel in laid_out(board.panels) {
                let place = &panel["gridPos"];
                assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= GRID, "{panel}");
                assert!(panel["description"].as_str().unwrap().len() > 20, "{panel}");
            }
        }
    }
}
