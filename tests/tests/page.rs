//! The status page of a real daemon in a real Chromium: what it shows, how soon, and what it never does.
//!
//! Pictures of it are left in `target/page`.
#![allow(clippy::print_stdout, reason = "a test suite prints what it measures")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet_tests::browser::Browser;
use cosmolet_tests::client::{Client, Load};
use cosmolet_tests::fabric::{Mode, NodeSpec, vip4, vip6};
use cosmolet_tests::objects::{self, State};
use cosmolet_tests::stage::{HTTP, Options, PORT, Stage, targets};
use cosmolet_tests::wait;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(15);
const NODE: &str = "node1";
const DESK: (u32, u32) = (1280, 900);
const ENTER: &str = "\u{E007}";
const ESCAPE: &str = "\u{E00C}";
const DOWN: &str = "\u{E015}";
const END: &str = "\u{E010}";

fn raise(options: Options) -> Result<(Stage, Browser)> {
    let mut stage = Stage::raise(&[NodeSpec::new(NODE, Mode::Dynamic)], options)?;
    stage.start()?;
    let browser = Browser::start(&stage.lab, &stage.fabric.nodes[0].netns, DESK)?;
    Ok((stage, browser))
}

fn url(rest: &str) -> String {
    format!("http://{HTTP}/{rest}")
}

/// Waits until an expression is true in the page.
fn until(browser: &Browser, expression: &str) -> Result<Duration> {
    let since = Instant::now();
    wait::until_true(expression, LIMIT, || Ok(browser.value(expression)? == true))?;
    Ok(since.elapsed())
}

/// Waits until the row of a VIP says this.
fn until_row(browser: &Browser, vip: &str, text: &str) -> Result<Duration> {
    let row = format!("document.querySelector('tr[data-vip=\"{vip}\"]')?.innerText.includes('{text}')");
    until(browser, &row)
}

fn picture(browser: &Browser, name: &str) -> Result<()> {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../page");
    std::fs::create_dir_all(&directory)?;
    browser.picture(&directory.join(format!("{name}.png")))
}

fn focused(browser: &Browser) -> Result<Value> {
    browser.value("document.activeElement.innerText")
}

#[test]
fn a_fault_is_seen_as_it_happens() -> Result<()> {
    let (mut stage, browser) = raise(Options::default())?;
    let client = Client::start(&stage.fabric.client, Load::new(targets().to_vec()))?;
    let (v4, v6) = (vip4(1).to_string(), vip6(1).to_string());
    browser.open(&url(""))?;
    until_row(&browser, &v4, "advertised")?;
    until_row(&browser, &v6, "advertised")?;
    ensure!(browser.text("h1")? == format!("cosmolet {NODE}") && browser.text("#live")? == "live");
    // Its traffic, as a rate.
    until(&browser, &format!("parseFloat(document.querySelector('tr[data-vip=\"{v4}\"]').cells[4].innerText) > 0"))?;
    stage.set_endpoint(0, State::NotReady)?;
    println!("on the page {:?} after the endpoint's file was written", until_row(&browser, &v4, "NoLocalEndpoint")?);
    until(&browser, "document.querySelector('#decisions li').innerText.includes('withdraw NoLocalEndpoint')")?;

    // Its story, by its link; the address names it.
    browser.click(&format!("tr[data-vip='{v4}'] a"))?;
    let sentence = "its traffic policy is Local and this node has no usable endpoint";
    until(&browser, &format!("document.querySelector('#story').innerText.includes('{sentence}')"))?;
    let story = browser.text("#story")?;
    for expected in ["What would change it", "Service default/web", "0 ready", "handshakes/s", "withdraw"] {
        ensure!(story.contains(expected), "no {expected:?} in {story}");
    }
    ensure!(browser.value("location.hash")? == format!("#{v4}"));
    picture(&browser, "story")?;
    stage.set_endpoint(0, State::Ready)?;
    until(
        &browser,
        "document.querySelector('#story').innerText.includes('valid, best, advertised to 10.1.1.1, 10.1.1.3')",
    )?;
    until(&browser, "document.querySelector('#story').innerText.includes('in the RIB since')")?;
    ensure!(client.summary(Instant::now() - Duration::from_secs(5), Instant::now()).ok() > 0, "no traffic");

    // The same in the dark and on a phone, where nothing has to be scrolled sideways.
    browser.devtools(
        "Emulation.setEmulatedMedia",
        &json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]}),
    )?;
    picture(&browser, "dark")?;
    let phone = json!({"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": true});
    browser.devtools("Emulation.setDeviceMetricsOverride", &phone)?;
    let sideways = "document.documentElement.scrollWidth <= document.documentElement.clientWidth";
    ensure!(browser.value(sideways)? == true, "it is wider than a phone");
    picture(&browser, "phone")?;
    let complaints = browser.complaints()?;
    ensure!(complaints.is_empty(), "{complaints:?}");

    // Its daemon goes and comes back.
    stage.daemons[0].kill()?;
    until(&browser, "document.querySelector('#live').innerText.startsWith('no answer')")?;
    ensure!(browser.text("#vips")?.contains(&v4), "what was known is still shown");
    stage.daemons[0].start()?;
    until(&browser, "document.querySelector('#live').innerText === 'live'")?;
    until_row(&browser, &v4, "advertised").map(drop)
}

#[test]
fn names_stay_text_whatever_they_are() -> Result<()> {
    let (stage, browser) = raise(Options::default())?;
    let attack = "<img src=x onerror=document.title='owned'>";
    stage.manifests[0].write_text(attack, "no: object")?;
    let mut service = objects::local(objects::service("hostile", &[vip4(2)], &[PORT]));
    service.metadata.annotations = Some([("cosmolet.io/med".to_owned(), attack.to_owned())].into());
    let ingress = service.status.as_mut().and_then(|status| status.load_balancer.as_mut()?.ingress.as_mut());
    let ingress = ingress.context("no ingress")?;
    ingress.push(k8s_openapi::api::core::v1::LoadBalancerIngress { ip: Some(attack.to_owned()), ..Default::default() });
    stage.manifests[0].write("hostile", &service)?;
    browser.open(&url(&format!("#{attack}")))?;
    until_row(&browser, &vip4(2).to_string(), "withdrawn")?;
    until(&browser, "document.querySelector('#troubles').innerText.split('<img').length >= 4")?;
    ensure!(browser.value("document.images.length")? == 0, "an element was made of a name");
    let title = browser.value("document.title")?;
    ensure!(title == format!("{NODE} · cosmolet"), "{title}");
    // What the page is not allowed, whatever it is made to do.
    let tried = browser.value(
        "(() => { const image = document.createElement('img'); image.setAttribute('onerror', 'document.title = 1'); \
         image.src = 'http://192.0.2.1/x'; document.body.append(image); image.dispatchEvent(new Event('error')); \
         return document.title; })()",
    )?;
    ensure!(tried == title, "a handler within the markup ran");
    let complaints = browser.complaints()?.concat();
    ensure!(complaints.contains("Content Security Policy"), "nothing was refused: {complaints}");
    Ok(())
}

#[test]
fn ten_thousand_vips_stay_smooth() -> Result<()> {
    // None of them is within the ranges: rows without a change of FRR or the kernel.
    let options = Options { vip_ranges: "203.0.113.0/24".to_owned(), ..Options::default() };
    let (stage, browser) = raise(options)?;
    let services = (0..10_000).map(|n| objects::local(objects::service(&format!("s{n}"), &[vip4(2 + n)], &[PORT])));
    stage.manifests[0].write_all("many", &services.collect::<Vec<_>>())?;
    wait::until_true("ten thousand VIPs", Duration::from_secs(60), || {
        let answer: Value = serde_json::from_str(&stage.daemons[0].get("/api/v1/vips")?.body)?;
        Ok(answer["count"] == 10_002)
    })?;
    browser.open(&url(""))?;
    until(&browser, "document.querySelector('#list-title').innerText === '10002 VIPs'")?;
    let milliseconds = |expression: &str| browser.value(expression)?.as_f64().context(expression.to_owned());
    let paint = milliseconds("performance.getEntriesByName('first-contentful-paint')[0].startTime")?;
    let rows = milliseconds("performance.getEntriesByName('vips')[0].startTime")?;
    let redraw = "(() => { const since = performance.now(); for (let n = 0; n < 20; n += 1) redraw(); return (performance.now() - since) / 20; })()";
    println!("first paint {paint:.0} ms, all VIPs known {rows:.0} ms, redrawn in {:.1} ms", milliseconds(redraw)?);
    let drawn = milliseconds("document.querySelectorAll('#vips tbody tr').length")?;
    ensure!(drawn < 100.0, "{drawn} rows are drawn");
    picture(&browser, "many")?;

    // By keyboard alone: to the last one, and by a search to one in the middle, whose story is told.
    let wanted = vip4(5000).to_string();
    browser.press(&format!("/{wanted}"))?;
    until(&browser, "document.querySelector('#list-title').innerText === '1 of 10002 VIPs'")?;
    browser.press(DOWN)?;
    ensure!(focused(&browser)? == wanted.as_str(), "{}", focused(&browser)?);
    browser.press(ENTER)?;
    until(&browser, "document.querySelector('#story').innerText.includes('services.vip_ranges')")?;
    browser.press(ESCAPE)?;
    ensure!(browser.value("document.querySelector('#story').hidden")? == true);
    ensure!(focused(&browser)? == wanted.as_str(), "the focus is back where it was");
    browser.value("(document.querySelector('#search').value = '', document.querySelector('#search').dispatchEvent(new Event('input')))")?;
    browser.press(END)?;
    until(&browser, &format!("document.activeElement.innerText === '{}'", vip6(1)))?;
    // Sorted the other way round it is the first, and a state can be asked for.
    browser.click("th[data-key=vip] button")?;
    until(&browser, "document.querySelector('th[data-key=vip]').getAttribute('aria-sort') === 'descending'")?;
    browser.value("document.querySelector('#scroller').scrollTop = 0")?;
    until(&browser, &format!("document.querySelector('#vips tbody tr[data-vip] a').innerText === '{}'", vip6(1)))?;
    browser.click("#states button[data-state=refused]")?;
    until(&browser, "document.querySelector('#states button').getAttribute('aria-pressed') === 'true'")?;
    let complaints = browser.complaints()?;
    ensure!(complaints.is_empty(), "{complaints:?}");
    Ok(())
}
