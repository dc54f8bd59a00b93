//! What many AuthorizationPolicies add to how long a request takes.

use std::fmt::Write;
use std::time::Duration;

use tulle_tests::chaos::{figure, full, is_release, length};
use tulle_tests::harness::{Home, Process, alone, client, eventually, tulle};

use crate::two_nodes::Load;

const PATIENCE: Duration = Duration::from_secs(60);
/// How much later the median request may be answered under policies, in milliseconds.
const ADDED: f64 = 0.020;
/// How many policies are about the workload asked, and the rules of each.
const OWN: usize = 20;
const RULES: usize = 20;

/// All policies; other profiles take long to compile them.
fn all_policies() -> usize {
    if full() { 1000 } else { 100 }
}

/// Policies that allow by source, method and path; of those about `guarded` the last rule of the last lets the load in.
fn policies() -> String {
    let mut all = String::new();
    let count = all_policies();
    for policy in 0..count {
        let is_own = policy % (count / OWN) == 0;
        let app = if is_own { "guarded" } else { "other" };
        write!(
            all,
            "---\napiVersion: tulle.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: p{policy}, namespace: default}}\nspec:\n  \
             targetRefs: [{{group: tulle.dev, kind: Workload, selector: {{matchLabels: {{app: {app}}}}}}}]\n  \
             action: Allow\n  rules:\n"
        )
        .unwrap();
        for rule in 0..RULES {
            let fits = policy == count - count / OWN && rule == RULES - 1;
            let (account, path) = match fits {
                true => ("plain".to_owned(), "/".to_owned()),
                false => (format!("a{policy}-{rule}"), format!("/p{policy}/r{rule}")),
            };
            writeln!(
                all,
                "  - {{sources: [{{type: ServiceAccount, serviceAccount: {{name: {account}}}}}], http: {{methods: [GET], paths: [{{type: Exact, value: {path}}}]}}}}"
            )
            .unwrap();
        }
    }
    all
}

#[test]
fn a_thousand_policies_delay_no_caller() {
    let _alone = alone();
    let home = Home::new();
    let binary = tulle().display().to_string();
    let service = |name: &str, port: u16| {
        format!(
            "  {name}:\n    command: [\"{binary}\", fake-service]\n    port: {port}\n    probe: {{http: /healthz}}\n"
        )
    };
    let services =
        format!("services:\n{}{}{}", service("guarded", 9491), service("free", 9492), service("other", 9493));
    home.write("mesh/tulle.yaml", &services);
    let folder = home.path().join("mesh").display().to_string();
    let mut command = home.command(tulle());
    command.args(["up", "--capture", "explicit", &folder]);
    let up = Process::spawn(&mut command);
    up.wait_for_line("readiness", PATIENCE, |line| line.contains("all services are ready"));
    let file = home.write("policies.yaml", &policies()).display().to_string();
    home.tulle(&["apply", "-f", &file]).ok();
    let curl = |path: &str| {
        let url = format!("http://guarded:9491{path}");
        home.tulle(&["run", "plain", "--", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", &url])
            .stdout
    };
    eventually("the policies hold", PATIENCE, || (curl("/x").contains("403")).then_some(()));
    // Both are asked in turn, so that what else the machine does is in both.
    let seconds = length(Duration::from_secs(2), Duration::from_secs(120)).as_secs().to_string();
    let urls = "http://free:9492/,http://guarded:9491/";
    let load = Load::of(&home.run_client("plain", &[&client("load.py"), urls, "300", &seconds, "2"]));
    assert!(load.failures.is_empty() && load.requests > 0, "{:?}", load.failures);
    let [free, guarded] = load.each[..] else { panic!("there are two") };
    let added = guarded[0] - free[0];
    figure("policies", "p50 without policies, in milliseconds", free[0]);
    figure("policies", &format!("p50 under {} policies, more, in milliseconds", all_policies()), added);
    // Other profiles show what is coarse.
    assert!(added <= 5.0, "a request takes {added} ms longer under policies");
    assert!(!full() || !is_release() || added <= ADDED, "a request takes {added} ms longer under policies");
    assert!(up.interrupt().success());
}
