//! Everything that is shipped for a cluster, judged by one: written on trial, with defaults, admission and strict fields.

use std::fs;

use anyhow::{Context, Result, ensure};
use cosmolet_tests::cluster::{Guard, Helm, shared};
use cosmolet_tests::markdown;
use cosmolet_tests::packaging::{OPERATORS, VALUE_SETS, documents, embedded, file, read, rendered_as};
use serde_json::{Value, json};

/// Has the API server judge documents as if they were written.
fn judge(cluster: &Guard, what: &str, documents: &[Value]) -> Result<()> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": documents});
    let place = tempfile::Builder::new().suffix(".json").tempfile_in(cluster.lab.directory())?;
    fs::write(place.path(), list.to_string())?;
    let path = place.path().to_string_lossy();
    // Objects of the installed release are helm's.
    let how = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", &path];
    cluster.kubectl(&how).map(drop).with_context(|| what.to_owned())
}

/// Those that an API server knows without the Prometheus operator.
fn known(mut documents: Vec<Value>) -> Vec<Value> {
    documents.retain(|document| OPERATORS.iter().all(|kind| document["kind"] != *kind));
    documents
}

#[test]
fn the_api_server_takes_what_both_helms_render() -> Result<()> {
    let cluster = shared()?;
    // Of the set "names".
    cluster.new_namespace("elsewhere-rendered")?;
    for which in [Helm::V4, Helm::V3] {
        for (name, sets) in VALUE_SETS {
            let all = known(rendered_as("judged", which, sets)?);
            ensure!(all.len() >= 3, "{name}: only {} documents", all.len());
            judge(&cluster, &format!("{name} by {which:?}"), &all)?;
        }
    }
    cluster.kubectl(&["delete", "namespace", "elsewhere-rendered", "--wait=false"]).map(drop)
}

#[test]
fn the_api_server_takes_the_plain_manifests() -> Result<()> {
    let cluster = shared()?;
    judge(&cluster, "deploy/cosmolet.yaml", &documents(&read("deploy/cosmolet.yaml")?)?)?;
    let embedded = documents(&embedded()?)?;
    judge(&cluster, "deploy/embedding.yaml", &embedded)?;
    // The judge judges: an unknown field is no manifest.
    let mut wrong = embedded;
    wrong[0]["spec"]["template"]["spec"]["hostNetwerk"] = true.into();
    let refused = judge(&cluster, "wrong", &wrong).err().context("an unknown field was taken")?;
    ensure!(format!("{refused:#}").contains("hostNetwerk"), "{refused:#}");
    Ok(())
}

/// `deploy/` as a base is the plain manifests, and the overlay of docs/install.md changes what it says.
#[test]
fn kustomize_builds_the_base_and_an_overlay() -> Result<()> {
    let cluster = shared()?;
    let base = file("deploy").to_string_lossy().into_owned();
    let sorted = |mut all: Vec<Value>| {
        all.sort_by_key(|document| format!("{} {}", document["kind"], document["metadata"]["name"]));
        all
    };
    let built = documents(&cluster.kubectl(&["kustomize", &base])?)?;
    ensure!(sorted(built) == sorted(documents(&read("deploy/cosmolet.yaml")?)?), "the base is not the plain manifests");

    let folder = tempfile::tempdir_in(cluster.lab.directory())?;
    fs::create_dir(folder.path().join("base"))?;
    for name in ["cosmolet.yaml", "kustomization.yaml"] {
        fs::copy(file("deploy").join(name), folder.path().join("base").join(name))?;
    }
    let mut snippets = markdown::blocks("docs/install.md", &read("docs/install.md")?)?.into_iter();
    let overlay = snippets.find(|block| block.kind == "yaml kustomize").context("no overlay")?.text;
    let remote = "https://github.com/platformbuilds/cosmolet//deploy?ref=main";
    ensure!(overlay.contains(remote), "{overlay}");
    fs::create_dir(folder.path().join("overlay"))?;
    fs::write(folder.path().join("overlay/kustomization.yaml"), overlay.replace(remote, "../base"))?;
    let built = documents(&cluster.kubectl(&["kustomize", &folder.path().join("overlay").to_string_lossy()])?)?;
    let set = built.iter().find(|document| document["kind"] == "DaemonSet").context("no DaemonSet")?;
    let pod = &set["spec"]["template"]["spec"];
    ensure!(pod["securityContext"]["supplementalGroups"] == json!([120]), "{pod}");
    let image = pod["containers"][0]["image"].as_str().unwrap_or_default();
    ensure!(image.starts_with("registry.example/cosmolet:"), "{image}");
    judge(&cluster, "the overlay", &built)
}
