//! What a server finds of a mesh when it starts: all of it, a part, an unfinished first start.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use tulle_server::{Server, ServerConfig};

/// The files under a folder, with what is in them.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn home(files: &BTreeMap<String, Vec<u8>>) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = home.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    home
}

async fn start(home: &Path) -> Result<Server, String> {
    Server::start(ServerConfig::local(home)).await.map_err(|error| error.to_string())
}

/// The files of a mesh that was started once.
async fn mesh() -> BTreeMap<String, Vec<u8>> {
    let home = tempfile::tempdir().unwrap();
    start(home.path()).await.unwrap().shutdown().await;
    released(&home.path().join("server/store.redb")).await;
    files(home.path())
}

/// Waits until no server has the store: its thread lets go of it a moment after the server's end.
async fn released(store: &Path) {
    let Ok(file) = fs::File::open(store) else { return };
    while file.try_lock().is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_mesh_is_no_new_mesh() {
    let (whole, other) = (mesh().await, mesh().await);
    let empty_database = {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty.redb");
        drop(redb::Database::create(&path).unwrap());
        fs::read(path).unwrap()
    };
    type Files = BTreeMap<String, Vec<u8>>;
    type Spoil = Box<dyn Fn(&mut Files)>;
    let remove = |name: &'static str| move |files: &mut Files| drop(files.remove(name).unwrap());
    let put = |name: &'static str, content: Vec<u8>| {
        move |files: &mut Files| drop(files.insert(name.to_owned(), content.clone()).unwrap())
    };
    let store = "server/store.redb";
    let key = "server/master.key";
    let cases: Vec<(&str, Spoil, &str)> = vec![
        ("no store", Box::new(remove(store)), "store.redb is missing"),
        ("store of no bytes", Box::new(put(store, Vec::new())), "store.redb is empty"),
        ("empty database", Box::new(put(store, empty_database)), "no store of a mesh"),
        ("half a store", Box::new(put(store, whole[store][..whole[store].len() / 2].to_vec())), "damaged"),
        ("another store", Box::new(put(store, other[store].clone())), "store of another mesh"),
        ("no master key", Box::new(remove(key)), "master.key is missing"),
        ("empty master key", Box::new(put(key, Vec::new())), "master.key is empty"),
        ("cut master key", Box::new(put(key, whole[key][..20].to_vec())), "is no master key"),
        ("another master key", Box::new(put(key, other[key].clone())), "another master key"),
        ("no root", Box::new(remove("server/ca/root.pem")), "ca/root.pem is missing"),
        ("no root key", Box::new(remove("server/ca/root.key")), "ca/root.key is missing"),
        (
            "store alone",
            Box::new(move |files: &mut Files| files.retain(|name, _| name == store)),
            "master.key is missing, ca/root.pem is missing, ca/root.key is missing",
        ),
        (
            "authority alone",
            Box::new(|files: &mut Files| files.retain(|name, _| name.starts_with("server/ca/"))),
            "store.redb is missing, master.key is missing",
        ),
        (
            "another authority",
            Box::new(move |files: &mut Files| {
                for (name, content) in other.iter().filter(|(name, _)| *name != store) {
                    files.insert(name.clone(), content.clone());
                }
            }),
            "store of another mesh",
        ),
    ];
    for (case, spoil, expected) in cases {
        let mut spoilt = whole.clone();
        spoil(&mut spoilt);
        let home = home(&spoilt);
        let message = match start(home.path()).await {
            Ok(_) => panic!("{case}: it starts"),
            Err(message) => message,
        };
        assert!(message.contains(expected), "{case}: {message}");
        assert!(message.contains("backup"), "{case}: {message}");
        released(&home.path().join(store)).await;
        // What was there is there, so that putting back what is missing is enough.
        let after = files(home.path());
        for (name, content) in spoilt.iter().filter(|(name, _)| *name != store) {
            assert_eq!(after.get(name), Some(content), "{case}: {name}");
        }
        assert!(!after.contains_key("server/first-start"), "{case}");
        for (name, content) in &whole {
            let path = home.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        }
        start(home.path()).await.unwrap_or_else(|e| panic!("{case}, put back: {e}")).shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_no_node_knows_are_made_anew() {
    let whole = mesh().await;
    for lost in
        ["kubeconfig", "server/api/", "server/ca/issuer", "server/ca/trust-domain", "server/store.reserve"]
    {
        for spoil in [false, true] {
            let mut files = whole.clone();
            let all = files.len();
            match spoil {
                true => {
                    files.iter_mut().filter(|(n, _)| n.starts_with(lost)).for_each(|(_, c)| c.truncate(9))
                }
                false => files.retain(|name, _| !name.starts_with(lost)),
            }
            assert!(spoil || files.len() < all, "{lost}");
            // A trust domain that was cut reads as another one.
            if spoil && lost.contains("trust-domain") {
                continue;
            }
            let home = home(&files);
            let server = start(home.path()).await.unwrap_or_else(|e| panic!("{lost}: {e}"));
            let kubeconfig = fs::read_to_string(&server.kubeconfig).unwrap();
            assert!(kubeconfig.contains("client-key-data"), "{lost}");
            assert_eq!(
                fs::read(home.path().join("server/ca/root.pem")).unwrap(),
                whole["server/ca/root.pem"]
            );
            server.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_is_finished_after_each_of_its_steps() {
    let whole = mesh().await;
    // In the order in which they are made; a `.new` is what a kill leaves of the one after it.
    let steps = [
        "first-start",
        "master.key.new",
        "master.key",
        "ca/trust-domain",
        "ca/root.key.new",
        "ca/root.key",
        "ca/root.pem",
        "ca/issuer.key",
        "ca/issuer.pem",
        "store.redb.new",
        "store.redb",
        "api/api-root.key",
        "api/api-root.pem",
        "api/admin.key",
        "api/admin.pem",
    ];
    for done in 0..=steps.len() {
        let mut files = BTreeMap::new();
        for step in &steps[..done] {
            let finished = step.trim_end_matches(".new");
            let content = match *step {
                "first-start" => b"unfinished".to_vec(),
                _ => whole[&format!("server/{finished}")].clone(),
            };
            files.remove(&format!("server/{finished}.new"));
            let half = if *step == finished { content.len() } else { content.len() / 2 };
            files.insert(format!("server/{step}"), content[..half].to_vec());
        }
        let home = home(&files);
        fs::create_dir_all(home.path().join("server")).unwrap();
        let server = start(home.path()).await.unwrap_or_else(|e| panic!("after {done} steps: {e}"));
        assert!(server.kubeconfig.exists());
        server.shutdown().await;
        let after = files_of_server(home.path());
        assert!(!after.contains_key("first-start"), "after {done} steps");
        assert!(after.keys().all(|name| !name.ends_with(".new")), "after {done} steps: {:?}", after.keys());
        if done > 6 {
            assert_eq!(after["ca/root.pem"], whole["server/ca/root.pem"], "after {done} steps");
        }
    }
}

fn files_of_server(home: &Path) -> BTreeMap<String, Vec<u8>> {
    files(&home.join("server"))
}
