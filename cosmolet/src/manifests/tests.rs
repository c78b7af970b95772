//! The source on a real directory, with real inotify.
#![allow(clippy::wildcard_enum_match_arm, reason = "a source makes few of the events")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::Complaints;
use super::{FileProblem, run};
use crate::engine::event::{Event, SourceState};
use crate::engine::service::NodeView;
use crate::engine::types::ServiceKey;
use crate::kubernetes::project::Selection;

/// Long enough for anything to have shown itself: several settle times.
const QUIET: Duration = Duration::from_millis(300);

struct Bench {
    /// Holds `manifests`, the directory that is followed.
    root: TempDir,
    events: mpsc::Receiver<Event>,
    problems: watch::Receiver<Vec<FileProblem>>,
}

impl Bench {
    /// Follows a directory that `prepare` has filled.
    fn start(prepare: impl FnOnce(&Path)) -> Self {
        let root = TempDir::new().unwrap();
        fs::create_dir(root.path().join("manifests")).unwrap();
        prepare(&root.path().join("manifests"));
        Self::follow(root)
    }

    fn follow(root: TempDir) -> Self {
        let (sender, events) = mpsc::channel(64);
        let complaints = Complaints::default();
        let problems = complaints.problems.subscribe();
        let selection = Selection { drain_taints: ["drain".to_owned()].into(), ..Selection::new("n1") };
        tokio::spawn(run(root.path().join("manifests"), selection, sender, complaints));
        Self { root, events, problems }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("manifests").join(name)
    }

    /// Puts a whole file in place, as a careful writer does.
    fn put(&self, name: &str, content: &str) {
        let temporary = self.path(".temporary");
        fs::write(&temporary, content).unwrap();
        fs::rename(temporary, self.path(name)).unwrap();
    }

    async fn next(&mut self) -> Event {
        timeout(Duration::from_secs(20), self.events.recv()).await.expect("an event").unwrap()
    }

    /// Everything up to the first `Synced`, in short.
    async fn synced(&mut self) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            let event = self.next().await;
            if event == Event::Source(SourceState::Synced) {
                return seen;
            }
            seen.push(short(&event));
        }
    }

    async fn expect(&mut self, wanted: &[&str]) {
        for wanted in wanted {
            assert_eq!(short(&self.next().await), *wanted);
        }
    }

    async fn expect_nothing(&mut self) {
        if let Ok(event) = timeout(QUIET, self.events.recv()).await {
            panic!("{event:?}");
        }
    }

    async fn problems(&mut self, wanted: impl Fn(&[FileProblem]) -> bool) -> Vec<FileProblem> {
        let found = timeout(Duration::from_secs(5), self.problems.wait_for(|problems| wanted(problems))).await;
        match found.map(|found| found.unwrap().clone()) {
            Ok(found) => found,
            Err(_) => panic!("{:?}", *self.problems.borrow()),
        }
    }
}

/// An event as a line: the first VIP, and the local and remote ready endpoints of IPv4.
fn short(event: &Event) -> String {
    match event {
        Event::Service(view) => {
            let vip = view.vips.first().map_or_else(|| "-".to_owned(), |claim| claim.vip.to_string());
            format!("{} {vip} {}+{}", view.key, view.endpoints.v4.local.len(), view.endpoints.v4.remote.ready)
        }
        Event::ServiceGone(key) => format!("{key} gone"),
        Event::Node(NodeView { drain_taint, .. }) => format!("node {}", drain_taint.as_deref().unwrap_or("healthy")),
        Event::Pod(key, view) => format!("pod {key} {}", view.restarts),
        Event::PodGone(key) => format!("pod {key} gone"),
        Event::Source(state) => state.as_str().to_owned(),
        other => format!("{other:?}"),
    }
}

fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: LoadBalancer\n  ports:\n  - port: 80\n\
         status: {{loadBalancer: {{ingress: [{{ip: {ip}}}]}}}}\n"
    )
}

fn slice(name: &str, service: &str, nodes: &[&str]) -> String {
    let endpoints: Vec<_> = nodes.iter().map(|node| format!("{{addresses: [10.0.0.1], nodeName: {node}}}")).collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  labels: \
         {{kubernetes.io/service-name: {service}}}\naddressType: IPv4\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_all_kinds_and_formats_are_read_before_synced() {
    let mut bench = Bench::start(|directory| {
        let web = format!(
            "# a comment\n---\n{}---\n{}...\n# the end\n",
            service("web", "192.0.2.1"),
            slice("web-1", "web", &["n1"])
        );
        fs::write(directory.join("web.yaml"), web).unwrap();
        let list = r#"{"kind": "List", "apiVersion": "v1", "items": [
            {"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
             "metadata": {"name": "web-2", "labels": {"kubernetes.io/service-name": "web"}},
             "endpoints": [{"addresses": ["10.0.0.2"], "nodeName": "n2"}]},
            {"kind": "Deployment", "apiVersion": "apps/v1"}]}"#;
        fs::write(directory.join("list.json"), list).unwrap();
        let node =
            "kind: Node\napiVersion: v1\nmetadata: {name: n1}\nspec: {taints: [{key: drain, effect: NoSchedule}]}\n";
        let pod = "kind: Pod\napiVersion: v1\nmetadata: {name: p}\nspec: {nodeName: n1, containers: []}\nstatus:\n  \
                   containerStatuses: [{name: c, image: '', imageID: '', ready: true, restartCount: 3}]\n";
        fs::write(directory.join("node.yml"), format!("--- # first\n{node}--- \n{pod}")).unwrap();
        fs::write(directory.join("README.md"), "not: [a manifest").unwrap();
        fs::write(directory.join(".web.yaml.swp"), "neither").unwrap();
    });
    assert_eq!(bench.synced().await, ["syncing", "node drain", "pod default/p 3", "default/web 192.0.2.1 1+1"]);
    bench.expect_nothing().await;
    assert!(bench.problems.borrow().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_is_seen_within_milliseconds() {
    let mut bench = Bench::start(|_| {});
    assert_eq!(bench.synced().await, ["syncing"]);
    bench.put("web.yaml", &service("web", "192.0.2.1"));
    bench.expect(&["default/web 192.0.2.1 0+0"]).await;
    let mut times = Vec::new();
    for round in 1..=20 {
        let nodes = vec!["n1"; round];
        fs::write(bench.path(".tmp"), slice("web-1", "web", &nodes)).unwrap();
        let begun = Instant::now();
        fs::rename(bench.path(".tmp"), bench.path("slice.yaml")).unwrap();
        let event = short(&bench.next().await);
        times.push(begun.elapsed());
        assert_eq!(event, format!("default/web 192.0.2.1 {round}+0"));
    }
    times.sort_unstable();
    eprintln!("rename to event: median {:?}, worst {:?}", times[10], times[19]);
    assert!(times[10] < Duration::from_millis(10), "median of {times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_costs_that_file_only_and_keeps_what_it_last_said() {
    let mut bench = Bench::start(|directory| {
        fs::write(directory.join("a.yaml"), service("a", "192.0.2.1")).unwrap();
        fs::write(directory.join("b.yaml"), service("b", "192.0.2.2")).unwrap();
        fs::write(directory.join("broken.yaml"), "kind: Service\napiVersion: v1\nmetadata: [\n").unwrap();
    });
    assert_eq!(bench.synced().await, ["syncing", "default/a 192.0.2.1 0+0", "default/b 192.0.2.2 0+0"]);
    let problems = bench.problems(|problems| problems.len() == 1).await;
    assert_eq!((problems[0].file.as_str(), problems[0].line), ("broken.yaml", Some(4)), "{problems:?}");

    bench.put(
        "a.yaml",
        &format!(
            "{}---\nkind: Service\napiVersion: v1\nmetadata: {{name: x}}\nspec: {{ports: 7}}\n",
            service("a", "192.0.2.9")
        ),
    );
    let problems = bench.problems(|problems| problems.len() == 2).await;
    assert_eq!((problems[0].file.as_str(), problems[0].line), ("a.yaml", Some(13)), "{problems:?}");
    assert!(problems[0].reason.contains("spec.ports: invalid type"), "{problems:?}");
    bench.expect_nothing().await;

    bench.put("b.yaml", &service("b", "192.0.2.3"));
    bench.expect(&["default/b 192.0.2.3 0+0"]).await;
    bench.put("a.yaml", &service("a", "192.0.2.9"));
    bench.expect(&["default/a 192.0.2.9 0+0"]).await;
    bench.problems(|problems| problems.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn editors_writers_and_removals() {
    let mut bench = Bench::start(|directory| fs::write(directory.join("a.yaml"), service("a", "192.0.2.1")).unwrap());
    bench.synced().await;
    // In place: truncated, written, closed.
    fs::write(bench.path("a.yaml"), service("a", "192.0.2.2")).unwrap();
    bench.expect(&["default/a 192.0.2.2 0+0"]).await;
    // As vi does: the file becomes its own backup, then a new one is written slowly.
    fs::rename(bench.path("a.yaml"), bench.path("a.yaml~")).unwrap();
    let mut new = fs::File::create(bench.path("a.yaml")).unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    std::io::Write::write_all(&mut new, service("a", "192.0.2.3").as_bytes()).unwrap();
    drop(new);
    fs::remove_file(bench.path("a.yaml~")).unwrap();
    bench.expect(&["default/a 192.0.2.3 0+0"]).await;
    // Under another name: nothing has changed, and nobody is blamed.
    fs::rename(bench.path("a.yaml"), bench.path("c.yaml")).unwrap();
    bench.expect_nothing().await;
    assert!(bench.problems.borrow().is_empty());
    fs::remove_file(bench.path("c.yaml")).unwrap();
    bench.expect(&["default/a gone"]).await;
    // A hard link is neither closed nor renamed.
    fs::write(bench.path("elsewhere"), service("l", "192.0.2.7")).unwrap();
    fs::hard_link(bench.path("elsewhere"), bench.path("l.yaml")).unwrap();
    bench.expect(&["default/l 192.0.2.7 0+0"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_replaced_in_one_change() {
    let mut bench = Bench::start(|directory| {
        let content = format!("{}---\n{}", service("web", "192.0.2.1"), slice("old", "web", &["n1", "n1"]));
        fs::write(directory.join("web.yaml"), content).unwrap();
    });
    assert_eq!(bench.synced().await, ["syncing", "default/web 192.0.2.1 2+0"]);
    // Another slice holds the same endpoints: between the two contents there is no moment without any.
    bench.put("web.yaml", &format!("{}---\n{}", service("web", "192.0.2.1"), slice("new", "web", &["n1", "n1"])));
    bench.expect_nothing().await;
    bench.put("web.yaml", &format!("{}---\n{}", service("web", "192.0.2.1"), slice("newer", "web", &["n1", "n2"])));
    bench.expect(&["default/web 192.0.2.1 1+1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubelets_link_swap_is_one_change() {
    let mut bench = Bench::start(|directory| {
        for (version, ip) in [("..v1", "192.0.2.1"), ("..v2", "192.0.2.2")] {
            fs::create_dir(directory.join(version)).unwrap();
            fs::write(directory.join(version).join("a.yaml"), service("a", ip)).unwrap();
        }
        symlink("..v1", directory.join("..data")).unwrap();
        symlink("..data/a.yaml", directory.join("a.yaml")).unwrap();
    });
    assert_eq!(bench.synced().await, ["syncing", "default/a 192.0.2.1 0+0"]);
    symlink("..v2", bench.path("..data_tmp")).unwrap();
    let begun = Instant::now();
    fs::rename(bench.path("..data_tmp"), bench.path("..data")).unwrap();
    bench.expect(&["default/a 192.0.2.2 0+0"]).await;
    eprintln!("link swap to event: {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_files_with_the_same_object_the_first_counts() {
    let mut bench = Bench::start(|directory| {
        fs::write(directory.join("b.yaml"), service("web", "192.0.2.2")).unwrap();
        fs::write(directory.join("c.yaml"), service("web", "192.0.2.3")).unwrap();
    });
    assert_eq!(bench.synced().await, ["syncing", "default/web 192.0.2.2 0+0"]);
    let problems = bench.problems(|problems| !problems.is_empty()).await;
    assert_eq!(problems[0].file, "c.yaml");
    assert!(problems[0].reason.contains("holds Service default/web, but so does b.yaml"), "{problems:?}");
    bench.put("a.yaml", &service("web", "192.0.2.1"));
    bench.expect(&["default/web 192.0.2.1 0+0"]).await;
    fs::remove_file(bench.path("a.yaml")).unwrap();
    bench.expect(&["default/web 192.0.2.2 0+0"]).await;
    bench.put("b.yaml", &format!("{0}---\n{0}", service("other", "192.0.2.4")));
    bench.expect(&["default/other 192.0.2.4 0+0", "default/web 192.0.2.3 0+0"]).await;
    let problems = bench.problems(|problems| problems.len() == 1 && problems[0].file == "b.yaml").await;
    assert!(problems[0].reason.contains("holds Service default/other twice"), "{problems:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_missing_is_awaited_and_one_that_goes_keeps_its_word() {
    let root = TempDir::new().unwrap();
    let mut bench = Bench::follow(root);
    bench.expect(&["syncing", "stale"]).await;
    let aside = bench.root.path().join("aside");
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("a.yaml"), service("a", "192.0.2.1")).unwrap();
    fs::rename(&aside, bench.path("")).unwrap();
    bench.expect(&["default/a 192.0.2.1 0+0", "synced"]).await;
    // Moved away: stale, and nothing is withdrawn.
    fs::rename(bench.path(""), &aside).unwrap();
    bench.expect(&["stale"]).await;
    bench.expect_nothing().await;
    // An empty directory in its place, as after an unmount: still stale.
    fs::create_dir(bench.path("")).unwrap();
    bench.expect(&["stale"]).await;
    bench.expect_nothing().await;
    // Another one with something in it counts.
    bench.put("b.yaml", &service("b", "192.0.2.2"));
    bench.expect(&["default/b 192.0.2.2 0+0", "synced", "default/a gone"]).await;
    // Removed with everything in it, as by `rm -r`.
    fs::remove_dir_all(bench.path("")).unwrap();
    bench.expect(&["stale"]).await;
    bench.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_files_are_refused_and_nothing_else_suffers() {
    let bomb = {
        let mut text = String::from("kind: Service\napiVersion: v1\na0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let before = format!("*a{}", level - 1);
            text += &format!("a{level}: &a{level} [{}]\n", vec![before; 9].join(", "));
        }
        text + "metadata: {name: bomb, labels: *a11}\n"
    };
    let deep = format!("kind: Service\napiVersion: v1\nmetadata: {}1{}\n", "{a: ".repeat(10_000), "}".repeat(10_000));
    let deep_json =
        format!(r#"{{"kind": "List", "apiVersion": "v1", "items": {}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let many = "---\nkind: Pod\napiVersion: v1\nmetadata: {name: p}\n".repeat(50_001);
    let mut bench = Bench::start(|directory| {
        fs::File::create(directory.join("huge.yaml")).unwrap().set_len((16 << 20) + 1).unwrap();
        fs::write(directory.join("dense.yaml"), "- a\n".repeat(1 << 20)).unwrap();
        fs::write(directory.join("bomb.yaml"), &bomb).unwrap();
        fs::write(directory.join("deep.yaml"), &deep).unwrap();
        fs::write(directory.join("deep.json"), &deep_json).unwrap();
        fs::write(directory.join("many.yaml"), &many).unwrap();
        fs::write(directory.join("bytes.yaml"), b"kind: Service\n\xff\xfe\n").unwrap();
        fs::write(directory.join("nameless.yaml"), "kind: Service\napiVersion: v1\n").unwrap();
        fs::write(directory.join("kindless.yaml"), "a: b\n").unwrap();
        fs::write(directory.join("scalar.yaml"), "hello\n").unwrap();
        fs::write(
            directory.join("trailing.json"),
            r#"{"kind": "Service", "apiVersion": "v1", "metadata": {"name": "t"}} x"#,
        )
        .unwrap();
        fs::create_dir(directory.join("directory.yaml")).unwrap();
        symlink("loop.yaml", directory.join("loop.yaml")).unwrap();
        symlink("nowhere", directory.join("dangling.yaml")).unwrap();
        let fifo = directory.join("fifo.yaml");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        fs::write(directory.join("good.yaml"), service("good", "192.0.2.1")).unwrap();
        fs::write(directory.join("empty.yaml"), "# nothing\n---\n---\n").unwrap();
        let knative =
            "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: other}\nspec: {template: 1}\n";
        fs::write(directory.join("knative.yaml"), knative).unwrap();
    });
    assert_eq!(bench.synced().await, ["syncing", "default/good 192.0.2.1 0+0"]);
    let problems = bench.problems(|problems| problems.len() == 14).await;
    let reason = |file: &str| {
        let problem = problems.iter().find(|problem| problem.file == file);
        problem.unwrap_or_else(|| panic!("{file} is not refused: {problems:?}")).reason.clone()
    };
    for (file, part) in [
        ("huge.yaml", "longer than 16777216 bytes"),
        ("dense.yaml", "a YAML document of"),
        ("bomb.yaml", "100 aliases"),
        ("deep.yaml", "brackets nested more than 256 deep"),
        ("deep.json", "recursion limit exceeded"),
        ("many.yaml", "more than 50000 objects"),
        ("bytes.yaml", "not UTF-8"),
        ("nameless.yaml", "a Service without `metadata.name`"),
        ("kindless.yaml", "no `kind`"),
        ("scalar.yaml", "invalid type"),
        ("trailing.json", "trailing characters"),
        ("directory.yaml", "not a regular file"),
        ("fifo.yaml", "not a regular file"),
        ("loop.yaml", "symbolic links"),
    ] {
        let reason = reason(file);
        assert!(reason.contains(part), "{file}: {reason}");
    }
    bench.put("good.yaml", &service("good", "192.0.2.2"));
    bench.expect(&["default/good 192.0.2.2 0+0"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_may_not_be_read_keeps_its_word() {
    // Root reads everything, whatever the mode says; so the file becomes a directory instead where we are root.
    let mut bench = Bench::start(|directory| fs::write(directory.join("a.yaml"), service("a", "192.0.2.1")).unwrap());
    bench.synced().await;
    fs::set_permissions(bench.path("a.yaml"), fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(bench.path("a.yaml")).is_ok() {
        fs::remove_file(bench.path("a.yaml")).unwrap();
        fs::create_dir(bench.path("a.yaml")).unwrap();
    }
    bench.problems(|problems| problems.len() == 1 && problems[0].file == "a.yaml").await;
    bench.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_taken_away_is_healthy_again_and_a_burst_is_all_seen() {
    let mut bench = Bench::start(|directory| {
        let node =
            "kind: Node\napiVersion: v1\nmetadata: {name: n1}\nspec: {taints: [{key: drain, effect: NoSchedule}]}\n";
        fs::write(directory.join("node.yaml"), node).unwrap();
    });
    assert_eq!(bench.synced().await, ["syncing", "node drain"]);
    fs::remove_file(bench.path("node.yaml")).unwrap();
    bench.expect(&["node healthy"]).await;
    for number in 0..500 {
        bench.put(&format!("{number:03}.yaml"), &service(&format!("s{number}"), "192.0.2.1"));
    }
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 500 {
        if let Event::Service(view) = bench.next().await {
            seen.insert(view.key.clone());
        }
    }
    assert!(seen.contains(&ServiceKey::new("default", "s499")));
    bench.expect_nothing().await;
}
