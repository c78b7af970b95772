//! cosmolet on a real cluster: kube-apiserver, controllers, kubelets, containerd, kube-proxy, helm, FRR.
//!
//! All tests share one cluster (see `cosmolet_tests::cluster::shared`), each with a namespace and VIPs of its own; those that
//! break a node are alone with it.

#![allow(missing_docs, reason = "a suite")]

mod confined;
mod eligibility;
mod helms;
mod manifests;
mod nodes;
mod plugin;
mod proving;
mod raised;
mod rig;
mod selection;
mod standing;
mod story;
mod told;
