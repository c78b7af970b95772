//! A real etcd and kube-apiserver for one lab: objects, watches, failures, without a cluster.
//!
//! Owns both processes and a runtime in the same namespace, through which all requests of this module go. There are no
//! controllers: what a controller would write, the test writes. kube-apiserver is that of `COSMOLET_KUBE_DIR`, else of
//! `~/.cache/cosmolet/kube-VERSION/bin`; etcd is Debian's.

mod audit;

use std::fmt::Debug;
use std::fs;
use std::future::Future;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::core::ApiResource;
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::netns::output;
use crate::objects::NAMESPACE;
use crate::process::{Process, Spec};
use crate::runtime::Runtime;
use crate::{Lab, Netns, wait};

pub use audit::{Request, uncovered};

/// The version that the lab is written for.
pub const KUBE_VERSION: &str = "1.35.4";
const READY_LIMIT: Duration = Duration::from_secs(60);
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
const MANAGER: &str = "lab";
/// The first address of the Services' network, which clients inside a cluster use.
const SERVICE_ADDRESS: &str = "10.96.0.1";
/// The Services' networks.
pub const SERVICE_CIDRS: &str = "10.96.0.0/16,fd00:96::/108";

/// Where it listens.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// The caller's namespace, on the loopback only, free ports.
    Loopback,
    /// A namespace of the lab, on an address that the nodes reach.
    Inside(&'a Netns, Ipv4Addr),
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// May do everything.
    Admin,
    /// The daemon's service account: may do what RBAC gives it, which is nothing before a test applies it.
    Cosmolet,
}

impl User {
    /// The bearer token, which is the user's short name.
    #[must_use]
    pub const fn token(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Cosmolet => "cosmolet",
        }
    }
}

/// The service account is that of `deploy/cosmolet.yaml`, so that its ClusterRoleBinding fits.
fn tokens(users: &[User]) -> String {
    let line = |user: &User| match user {
        User::Admin => "admin,admin,admin,\"system:masters\"\n",
        User::Cosmolet => {
            "cosmolet,system:serviceaccount:cosmolet-system:cosmolet,cosmolet,\
             \"system:serviceaccounts,system:serviceaccounts:cosmolet-system\"\n"
        }
    };
    users.iter().map(line).collect()
}

/// What a whole cluster asks of its API server beyond the objects: other users.
#[derive(Clone, Debug, Default)]
pub struct ForCluster {
    /// Further users, each as the token (which is the user's short name), the name and the groups.
    pub users: Vec<(String, String, &'static str)>,
}

impl ForCluster {
    fn tokens(&self) -> String {
        let line = |(token, name, groups): &(String, String, &str)| format!("{token},{name},{token},\"{groups}\"\n");
        self.users.iter().map(line).collect()
    }
}

/// The running control plane.
#[derive(Debug)]
pub struct ApiServer {
    server: Option<Process>,
    server_spec: Spec,
    _etcd: Process,
    runtime: Runtime,
    directory: PathBuf,
    url: String,
    etcd_port: u16,
    more_tokens: String,
}

/// Requests in flight when many objects are written.
const PARALLEL: usize = 8;
/// Objects written within one request limit.
const CHUNK: usize = 64;

impl ApiServer {
    /// Starts etcd and the API server and waits until it is ready (about 4 s).
    pub fn start(lab: &Lab, place: Place<'_>) -> Result<Self> {
        Self::start_as(lab, place, None)
    }

    /// The same for a cluster that has controllers and nodes.
    pub fn start_for_cluster(lab: &Lab, place: Place<'_>, cluster: &ForCluster) -> Result<Self> {
        Self::start_as(lab, place, Some(cluster))
    }

    fn start_as(lab: &Lab, place: Place<'_>, cluster: Option<&ForCluster>) -> Result<Self> {
        let directory = lab.subdirectory("kube")?;
        let (address, netns) = match place {
            Place::Loopback => (Ipv4Addr::LOCALHOST, None),
            Place::Inside(netns, address) => (address, Some(netns)),
        };
        let [client, peer, secure] = ports(netns)?;
        certificates(&directory, address)?;
        fs::write(directory.join("audit-policy.yaml"), audit::POLICY)?;
        let etcd = etcd(lab, &directory, client, peer)?;
        let server_spec = api_server(lab, &directory, address, client, secure)?;
        let server_spec = match cluster {
            Some(_) => server_spec.arg("--kubelet-preferred-address-types=InternalIP"),
            None => alone(server_spec),
        };
        let more_tokens = cluster.map(ForCluster::tokens).unwrap_or_default();
        let inside = |spec: Spec| match netns {
            Some(netns) => spec.inside(netns),
            None => spec,
        };
        let (etcd, server_spec) = (inside(etcd).start()?, inside(server_spec));
        let runtime = Runtime::start("kube", netns.map(Netns::door))?;
        let url = format!("https://{address}:{secure}");
        let mut api =
            Self { server: None, server_spec, _etcd: etcd, runtime, directory, url, etcd_port: client, more_tokens };
        api.know(&[User::Admin, User::Cosmolet])?;
        for user in [User::Admin, User::Cosmolet] {
            fs::write(api.kubeconfig(user), api.kubeconfig_text(user))?;
        }
        api.restart()?;
        Ok(api)
    }

    /// The port of its HTTPS.
    pub fn port(&self) -> Result<u16> {
        let port = self.url.rsplit(':').next().and_then(|digits| digits.parse().ok());
        port.with_context(|| self.url.clone())
    }

    /// The port of etcd for clients, on its namespace's loopback.
    #[must_use]
    pub const fn etcd_port(&self) -> u16 {
        self.etcd_port
    }

    /// The path of a user's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self, user: User) -> PathBuf {
        self.directory.join(format!("{}.kubeconfig", user.token()))
    }

    /// Starts the server (ending it before if it runs) on the same data, and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        self.server = None;
        self.server = Some(self.server_spec.start()?);
        self.wait_ready(READY_LIMIT)
    }

    /// Ends the server with SIGKILL; etcd keeps the data.
    pub fn kill(&mut self) -> Result<()> {
        self.process()?.kill()?;
        self.server = None;
        Ok(())
    }

    /// Chooses whose tokens are known from the next start on; the tokens of others are rejected (401).
    pub fn know(&self, users: &[User]) -> Result<()> {
        Ok(fs::write(self.directory.join("tokens.csv"), tokens(users) + &self.more_tokens)?)
    }

    /// The certificate of the authority that vouches for the server.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// The directory of its certificates and keys.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The record of all requests, one JSON document (audit.k8s.io/v1 Event) a line.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.directory.join("audit.log")
    }

    /// Makes etcd forget every version but the newest, after one more change: whoever watches from an older one is told
    /// 410 Gone and must list again.
    pub fn compact(&self) -> Result<()> {
        let put = self.etcd("put", json!({"key": "Zm9v", "value": "Zm9v"}))?;
        let revision = put["header"]["revision"].as_str().context("etcd named no revision")?.to_owned();
        self.etcd("compaction", json!({"revision": revision, "physical": true})).map(drop)
    }

    /// A call through etcd's JSON gateway; bytes are base64 in it.
    fn etcd(&self, call: &str, body: Value) -> Result<Value> {
        let (port, body) = (self.etcd_port, body.to_string());
        let head = format!(
            "POST /v3/kv/{call} HTTP/1.0\r\nHost: etcd\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.runtime.run(async move {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
            stream.write_all(format!("{head}{body}").as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            let (head, body) = answer.split_once("\r\n\r\n").context("no end of the header")?;
            ensure!(head.contains(" 200 "), "etcd answers {answer}");
            Ok(serde_json::from_str(body)?)
        })?
    }

    /// Every request that the daemon's user has made so far, as the server's audit log has it.
    pub fn audit(&self) -> Result<Vec<Request>> {
        audit::read(&self.audit_log())
    }

    /// The server's process, to pause and resume it.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.server.as_mut().context("the API server does not run")
    }

    /// Its process id.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.server.as_ref().context("the API server does not run")?.pid())
    }

    /// Waits until `/readyz` says ok.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        wait::until("kube-apiserver ready", limit, || {
            if let Err(ended) = self.process().and_then(Process::ensure_running) {
                return Ok(Some(Err(ended)));
            }
            let asked = self.run(async |client| {
                // A "list" of a path is a plain GET of it.
                let request = kube::core::Request::new("/readyz").list(&ListParams::default())?;
                Ok(client.request_text(request).await?)
            })?;
            Ok((asked == "ok").then_some(Ok(())))
        })?
    }

    /// A configuration for a client of one's own, which must live in the same namespace.
    pub fn config(&self, user: User) -> Result<Config> {
        let kubeconfig = Kubeconfig::from_yaml(&self.kubeconfig_text(user))?;
        self.runtime.run(async move {
            let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
            // Whatever the host's environment says, the lab's traffic stays inside.
            config.proxy_url = None;
            Ok(config)
        })?
    }

    /// Runs `body` with an administrator's client where the server can be reached.
    pub fn run<T, F>(&self, body: impl FnOnce(Client) -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send,
    {
        let config = self.config(User::Admin)?;
        self.runtime.run(async move {
            let request = async { body(Client::try_from(config)?).await };
            tokio::time::timeout(REQUEST_LIMIT, request).await.context("no answer from the API server")?
        })?
    }

    /// Creates or replaces an object by server-side apply, its status too if it has one.
    pub fn apply<K>(&self, object: &K) -> Result<()>
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        self.apply_all(std::slice::from_ref(object))
    }

    /// The same for many objects, a few at a time.
    pub fn apply_all<K>(&self, objects: &[K]) -> Result<()>
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        for chunk in objects.chunks(CHUNK) {
            let document = |object: &K| {
                let (name, namespace) = (object.name_any(), object.namespace());
                Ok((name, namespace, serde_json::to_value(object)?))
            };
            let documents: Vec<(String, Option<String>, Value)> = chunk.iter().map(document).collect::<Result<_>>()?;
            let resource = ApiResource::erase::<K>(&());
            self.run(async move |client| {
                let writes = documents.into_iter().map(|(name, namespace, document)| {
                    let api: Api<DynamicObject> = match &namespace {
                        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
                        None => Api::all_with(client.clone(), &resource),
                    };
                    write(api, name, document)
                });
                futures::stream::iter(writes).buffer_unordered(PARALLEL).try_collect::<()>().await
            })?;
        }
        Ok(())
    }

    /// Reads a namespaced object, if it is there.
    pub fn get<K>(&self, name: &str) -> Result<Option<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + Debug
            + Send
            + 'static,
    {
        let name = name.to_owned();
        self.run(async move |client| Ok(Api::<K>::namespaced(client, NAMESPACE).get_opt(&name).await?))
    }

    /// Deletes a namespaced object; no error if it is not there.
    pub fn delete<K>(&self, name: &str) -> Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + Debug
            + Send
            + 'static,
    {
        let name = name.to_owned();
        let how = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        self.run(async move |client| match Api::<K>::namespaced(client, NAMESPACE).delete(&name, &how).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(()),
        })
    }

    fn kubeconfig_text(&self, user: User) -> String {
        self.kubeconfig_for(user.token(), &self.authority())
    }

    /// A kubeconfig for any known token, for a place where the authority's certificate is found at that path.
    #[must_use]
    pub fn kubeconfig_for(&self, token: &str, authority: &Path) -> String {
        format!(
            "apiVersion: v1\nkind: Config\n\
             clusters: [{{name: lab, cluster: {{server: \"{}\", certificate-authority: \"{}\"}}}}]\n\
             users: [{{name: user, user: {{token: {}}}}}]\n\
             contexts: [{{name: lab, context: {{cluster: lab, user: user}}}}]\ncurrent-context: lab\n",
            self.url,
            authority.display(),
            token
        )
    }
}

/// Writes one object, then its status.
async fn write(api: Api<DynamicObject>, name: String, document: Value) -> Result<()> {
    let how = PatchParams::apply(MANAGER).force();
    api.patch(&name, &how, &Patch::Apply(&document)).await?;
    if let Some(status) = document.get("status") {
        let status = Patch::Merge(json!({ "status": status }));
        api.patch_status(&name, &PatchParams::default(), &status).await?;
    }
    Ok(())
}

/// Ports for etcd's clients, etcd's peers and the API server: the usual ones in a namespace of its own, else free ones.
fn ports(netns: Option<&Netns>) -> Result<[u16; 3]> {
    if netns.is_some() {
        return Ok([2379, 2380, 6443]);
    }
    let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let held = [free()?, free()?, free()?];
    Ok([held[0].local_addr()?.port(), held[1].local_addr()?.port(), held[2].local_addr()?.port()])
}

/// A certificate authority, the server's certificate and the key of service account tokens.
fn certificates(directory: &Path, address: Ipv4Addr) -> Result<()> {
    let names = format!("subjectAltName=IP:{address},IP:127.0.0.1,IP:{SERVICE_ADDRESS},DNS:kubernetes.default.svc\n");
    fs::write(directory.join("names"), names)?;
    let key = "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out";
    let commands = [
        format!("{key} ca.key"),
        "req -x509 -new -key ca.key -subj /CN=lab-ca -days 30 -out ca.crt".to_owned(),
        format!("{key} api.key"),
        "req -new -key api.key -subj /CN=kube-apiserver -out api.csr".to_owned(),
        "x509 -req -in api.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile names -out api.crt"
            .to_owned(),
        format!("{key} sa.key"),
        "pkey -in sa.key -pubout -out sa.pub".to_owned(),
    ];
    for command in commands {
        output(Command::new("openssl").args(command.split(' ')).current_dir(directory))?;
    }
    Ok(())
}

fn etcd(lab: &Lab, directory: &Path, client: u16, peer: u16) -> Result<Spec> {
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    Ok(Spec::new("etcd", "etcd", lab.log("etcd")?)
        .arg("--data-dir")
        .arg(directory.join("etcd"))
        .args(["--unsafe-no-fsync", "--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)])
        .args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)])
        .arg(format!("--initial-cluster=default={}", url(peer))))
}

fn api_server(lab: &Lab, directory: &Path, address: Ipv4Addr, etcd: u16, secure: u16) -> Result<Spec> {
    let at = |option: &str, file: &str| format!("--{option}={}", directory.join(file).display());
    Ok(Spec::new("kube-apiserver", program()?, lab.log("kube-apiserver")?)
        .arg(format!("--etcd-servers=http://127.0.0.1:{etcd}"))
        .args([format!("--bind-address={address}"), format!("--advertise-address={address}")])
        .arg(format!("--secure-port={secure}"))
        .args([at("tls-cert-file", "api.crt"), at("tls-private-key-file", "api.key")])
        .args([at("service-account-key-file", "sa.pub"), at("service-account-signing-key-file", "sa.key")])
        .args([at("token-auth-file", "tokens.csv"), at("cert-dir", "run")])
        .args([at("audit-policy-file", "audit-policy.yaml"), at("audit-log-path", "audit.log")])
        .arg("--service-account-issuer=https://kubernetes.default.svc")
        .args(["--authorization-mode=Node,RBAC", "--allow-privileged=true"])
        .arg(format!("--service-cluster-ip-range={SERVICE_CIDRS}")))
}

/// Without controllers nobody makes service accounts or takes the taint of a new node away, and nobody asks by the
/// Service's address.
fn alone(spec: Spec) -> Spec {
    spec.arg("--endpoint-reconciler-type=none").arg("--disable-admission-plugins=ServiceAccount,TaintNodesByCondition")
}

/// The binary of kube-apiserver.
pub fn program() -> Result<PathBuf> {
    kube_program("kube-apiserver")
}

/// A binary of Kubernetes' own.
pub fn kube_program(name: &str) -> Result<PathBuf> {
    let directory = match (std::env::var_os("COSMOLET_KUBE_DIR"), std::env::home_dir()) {
        (Some(directory), _) => PathBuf::from(directory),
        (None, home) => home.context("no home directory")?.join(format!(".cache/cosmolet/kube-{KUBE_VERSION}/bin")),
    };
    let program = directory.join(name);
    ensure!(program.is_file(), "{} is missing: cargo xtask setup, or set COSMOLET_KUBE_DIR", program.display());
    Ok(program)
}
