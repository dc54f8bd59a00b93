//! Who may do what, as people with a real kubectl see it: users, roles, tokens, the audit log, and putting things back.

use std::path::Path;
use std::time::Duration;

use tulle_tests::harness::{Home, Outcome, alone, eventually, run, tulle};

/// kubectl as the user of a kubeconfig.
fn kubectl_as(home: &Home, kubeconfig: &Path, line: &str) -> Outcome {
    let mut command = home.command("kubectl");
    command.args(line.split(' ')).env("KUBECONFIG", kubeconfig);
    run(&mut command)
}

fn refused(outcome: &Outcome, words: &str) {
    assert!(!outcome.status.success() && outcome.stderr.contains(words), "{words}: {outcome:#?}");
}

#[test]
fn roles_are_given_with_kubectl_and_hold() {
    let _alone = alone();
    let home = Home::new();
    let up = home.up(&format!(
        "services:\n  d:\n    command: [\"{}\", fake-service, --name, d]\n    port: 9431\n",
        tulle().display()
    ));
    let kubectl = |line: &str| home.kubectl(&line.split(' ').collect::<Vec<_>>());
    let user = |name: &str, more: &[&str]| {
        let text = home.tulle(&[&["user", "create", name], more].concat()).ok();
        home.write(&format!("{}.kubeconfig", name.replace(':', "-")), &text)
    };
    let ann = user("ann", &["--group", "devs"]);
    let as_ann = |line: &str| kubectl_as(&home, &ann, line);

    // Known, and nothing more.
    let whoami = as_ann("auth whoami").ok();
    assert!(
        whoami.contains("ann") && whoami.contains("devs") && whoami.contains("system:authenticated"),
        "{whoami}"
    );
    refused(
        &as_ann("get services"),
        "User \"ann\" cannot list resource \"services\" in API group \"\" in the namespace \"default\"",
    );
    assert_eq!(as_ann("auth can-i list services").stdout.trim(), "no");
    assert!(as_ann("api-resources -o name").ok().contains("rolebindings.rbac.authorization.k8s.io"));

    // A viewer.
    kubectl("create rolebinding ann --clusterrole=view --user=ann").ok();
    assert_eq!(as_ann("auth can-i list services").ok().trim(), "yes");
    assert!(as_ann("get services -o name").ok().contains("service/d"));
    assert!(as_ann("auth can-i --list").ok().contains("gateway.networking.k8s.io"));
    for line in ["get services -A", "get services -n shop", "get namespaces"] {
        refused(&as_ann(line), "cannot list resource");
    }
    refused(&as_ann("label service d a=b"), "cannot patch resource \"services\"");
    refused(&as_ann("delete service d"), "cannot delete resource \"services\"");
    refused(
        &as_ann("create rolebinding more --clusterrole=admin --user=ann"),
        "cannot create resource \"rolebindings\"",
    );
    kubectl("create secret generic key --from-literal=password=hunter2").ok();
    refused(&as_ann("get secret key -o yaml"), "cannot get resource \"secrets\"");
    let value = kubectl("get secret key -o jsonpath={.data.password}").ok();
    assert_eq!(value, "aHVudGVyMg==");
    assert!(
        !kubectl("get secrets").ok().contains(&value)
            && !kubectl("describe secret key").ok().contains(&value)
    );
    let seen = home.tulle(&["get", "services", "--kubeconfig", &ann.display().to_string()]).ok();
    assert!(seen.contains(" d ") || seen.contains("d "), "{seen}");

    // One who works on routes, by the group of its certificate.
    kubectl(
        "create role routes --verb=get,list,create,patch --resource=httproutes.gateway.networking.k8s.io",
    )
    .ok();
    kubectl("create rolebinding devs --role=routes --group=devs").ok();
    assert_eq!(as_ann("auth can-i create httproutes").ok().trim(), "yes");
    assert_eq!(as_ann("auth can-i delete httproutes").stdout.trim(), "no");
    assert_eq!(kubectl("auth can-i create httproutes --as=bob --as-group=devs").ok().trim(), "yes");
    assert_eq!(kubectl("auth can-i create httproutes --as=bob").stdout.trim(), "no");
    refused(&as_ann("auth can-i get services --as=admin --as-group=system:masters"), "cannot impersonate");

    // Whoever administers a namespace gives away what he has.
    let owner = user("olga", &["--ttl", "1h"]);
    let as_owner = |line: &str| kubectl_as(&home, &owner, line);
    kubectl("create rolebinding olga --clusterrole=admin --user=olga").ok();
    as_owner("create rolebinding ben --clusterrole=edit --user=ben").ok();
    refused(
        &as_owner("create rolebinding root --clusterrole=cluster-admin --user=olga"),
        "not currently held",
    );
    refused(&as_owner("create role all --verb=* --resource=*.*"), "not currently held");
    refused(
        &as_owner("create clusterrolebinding root --clusterrole=view --user=olga"),
        "clusterrolebindings",
    );
    assert_eq!(kubectl("auth can-i patch services --as=ben").ok().trim(), "yes");
    assert_eq!(kubectl("auth can-i get secrets --as=ben").stdout.trim(), "no");
    kubectl("create clusterrole metrics --verb=get --non-resource-url=/metrics").ok();
    kubectl("create clusterrolebinding ann-metrics --clusterrole=metrics --user=ann").ok();
    assert!(as_ann("get --raw /metrics").ok().contains("tulle_server"));
    assert!(kubectl("explain role.rules.resourceNames").ok().contains("FIELD: resourceNames"));
    assert!(kubectl("get rolebindings -o wide").ok().contains("ClusterRole/view"));

    // A watch ends when the role is taken away.
    let mut watching = home.command("kubectl");
    watching.args(["get", "services", "-w", "-o", "name"]).env("KUBECONFIG", &ann);
    let watching = tulle_tests::harness::Process::spawn(&mut watching);
    watching.wait_for_line("the service", Duration::from_secs(10), |line| line.contains("service/d"));
    kubectl("delete rolebinding ann").ok();
    watching.wait(Duration::from_secs(10));
    refused(&as_ann("get services"), "cannot list resource \"services\"");

    // A token, until it is taken back.
    let bot = user("system:serviceaccount:default:bot", &["--token"]);
    kubectl("create rolebinding bot --clusterrole=view --serviceaccount=default:bot").ok();
    assert!(kubectl_as(&home, &bot, "get services -o name").ok().contains("service/d"));
    let list = home.tulle(&["user", "list"]).ok();
    let id = list.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    home.tulle(&["user", "revoke", &id]).ok();
    refused(&kubectl_as(&home, &bot, "get services"), "Unauthorized");

    // All of it is written down.
    let audit = |arguments: &[&str]| home.tulle(&[&["audit", "--limit", "1000"], arguments].concat()).ok();
    let denied = audit(&["--denied", "--user", "ann"]);
    for what in [
        "patch",
        "services/default/d",
        "secrets/default/key",
        "rolebindings.rbac.authorization.k8s.io/default",
    ] {
        assert!(denied.contains(what), "no {what} in\n{denied}");
    }
    let changes = audit(&["-o", "json"]);
    assert!(changes.contains("secrets/default/key") && changes.contains("(redacted)"), "{changes}");
    assert!(!changes.contains("hunter2") && !changes.contains(&value), "{changes}");
    refused(&home.tulle(&["audit", "--kubeconfig", &owner.display().to_string()]), "cannot get path");

    // And can be undone.
    kubectl("label service d team=one").ok();
    kubectl("label service d team=two --overwrite").ok();
    let history = home.tulle(&["history", "service/d"]).ok();
    assert!(history.contains("admin") && history.contains("metadata.labels"), "{history}");
    let last = history.lines().last().unwrap().split_whitespace().next().unwrap().parse::<u64>().unwrap();
    home.tulle(&["rollback", "service/d", "--to", &(last - 1).to_string()]).ok();
    assert_eq!(kubectl("get service d -o jsonpath={.metadata.labels.team}").ok(), "one");
    kubectl("delete secret key").ok();
    let history = home.tulle(&["history", "secret/key", "--revision", "1"]).ok();
    assert!(history.contains("(redacted)") && !history.contains(&value), "{history}");
    home.tulle(&["rollback", "secret/key", "--to", "1"]).ok();
    let back = || kubectl("get secret key -o jsonpath={.data.password}").stdout;
    eventually("the secret", Duration::from_secs(5), || (back() == value).then_some(()));
    assert!(up.interrupt().success());
}
