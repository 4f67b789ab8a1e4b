//! The outlet to CloudFront against moto, which takes calls apart as AWS's own tools put them together.

use std::net::TcpListener;

use mainstay::local::wait_until;
use serde_json::Value;

use super::support::{Folder, Origin, PATIENCE, Program, command, get, mainstay};
use super::tools;

const ROUTES: &str = r#"
[[route]]
path = "/public/pages/{slug}"
handler = "ramp.rates.latest"
params = [{ name = "slug", in = "path", type = "text" }]
  [route.cache]
  ttl = "1h"
  tags = ["pages:{slug}"]
"#;
const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "secret")];

/// Makes a distribution, and says its id.
const MAKE: &str = r#"
import botocore.session, sys
client = botocore.session.get_session().create_client("cloudfront", region_name="us-east-1", endpoint_url=sys.argv[1])
made = client.create_distribution(DistributionConfig={
    "CallerReference": "1", "Comment": "", "Enabled": True,
    "Origins": {"Quantity": 1, "Items": [{"Id": "o", "DomainName": "origin.example.com",
        "CustomOriginConfig": {"HTTPPort": 80, "HTTPSPort": 443, "OriginProtocolPolicy": "https-only"}}]},
    "DefaultCacheBehavior": {"TargetOriginId": "o", "ViewerProtocolPolicy": "https-only", "MinTTL": 0,
        "ForwardedValues": {"QueryString": True, "Cookies": {"Forward": "none"}}}})
print(made["Distribution"]["Id"], end="")
"#;
/// Says which paths were told to be forgotten, as JSON.
const LIST: &str = r#"
import botocore.session, json, sys
client = botocore.session.get_session().create_client("cloudfront", region_name="us-east-1", endpoint_url=sys.argv[1])
listed = client.list_invalidations(DistributionId=sys.argv[2])["InvalidationList"].get("Items", [])
ids = [item["Id"] for item in listed]
batches = [client.get_invalidation(DistributionId=sys.argv[2], Id=id)["Invalidation"]["InvalidationBatch"] for id in ids]
print(json.dumps([path for batch in batches for path in batch["Paths"]["Items"]]))
"#;

fn python(script: &str, args: &[&str]) -> String {
    let mut python = command(tools().join("bin/python"));
    let done = python.args(["-c", script]).args(args).envs(KEYS).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[test]
#[ignore = "`make verify` runs it"]
fn what_is_purged_reaches_a_distribution() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut server = command(tools().join("bin/moto_server"));
    server.args(["-H", "127.0.0.1", "-p", &port]);
    let _moto = Program::start(server);
    let url = format!("http://127.0.0.1:{port}");
    assert!(wait_until(PATIENCE, || get(&format!("{url}/moto-api/")).status == 200), "moto does not start");
    let id = python(MAKE, &[&url]);

    let folder = Folder::new(ROUTES);
    let env = [
        ("ADMIN_TOKEN", "t"),
        ("MAINSTAY__EDGE__CLOUDFRONT_DISTRIBUTION_ID", id.as_str()),
        ("MAINSTAY__EDGE__ENDPOINT", &url),
        ("MAINSTAY__EDGE__BATCH_INTERVAL", "100ms"),
    ];
    let origin = Origin::start(folder.path(), &[&env[..], &KEYS].concat());
    let purge = ["purge", "--admin", &origin.admin, "--config", folder.text(), "--tag", "pages:terms"];
    let done = mainstay(&purge, &[("ADMIN_TOKEN", "t")]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let sent = "mainstay_edge_paths_total{outcome=\"sent\"} 1\n";
    let is_sent = || get(&format!("{}/metrics", origin.admin)).body.contains(sent);
    assert!(wait_until(PATIENCE, is_sent), "{}", origin.program.output());
    let told: Value = serde_json::from_str(&python(LIST, &[&url, &id])).unwrap();
    assert_eq!(told, serde_json::json!(["/public/pages/terms"]));
}
