//! What services of compose files have and ours have not, each with why.

/// Fields that are read elsewhere, or say nothing that matters here.
pub const TAKEN: &[&str] = &[
    "annotations",
    "attach",
    "build",
    "command",
    "container_name",
    "cpus",
    "depends_on",
    "deploy",
    "entrypoint",
    "env_file",
    "environment",
    "expose",
    "extends",
    "healthcheck",
    "hostname",
    "image",
    "init",
    "mem_limit",
    "platform",
    "ports",
    "profiles",
    "pull_policy",
    "restart",
    "scale",
    "stdin_open",
    "stop_grace_period",
    "stop_signal",
    "tty",
    "user",
    "working_dir",
];

/// Why the rest is not taken over.
const REASONS: &[(&[&str], &str)] = &[
    (
        &["volumes", "volumes_from", "tmpfs", "storage_opt", "devices", "device_cgroup_rules"],
        "processes see the files of this machine: give them their paths here",
    ),
    (
        &["networks", "network_mode", "links", "external_links", "mac_address"],
        "services reach each other by their names; AuthorizationPolicies say who may enter whom",
    ),
    (&["secrets", "configs"], "processes read files of this machine, or variables: `envFile`, `environment`"),
    (
        &["extra_hosts", "dns", "dns_opt", "dns_search", "domainname"],
        "names are those of the mesh, and then the host's",
    ),
    (
        &[
            "cap_add",
            "cap_drop",
            "privileged",
            "security_opt",
            "read_only",
            "sysctls",
            "userns_mode",
            "ipc",
            "pid",
            "uts",
            "group_add",
            "isolation",
            "cgroup",
            "cgroup_parent",
            "credential_spec",
            "runtime",
        ],
        "a process has the rights of its `user`, and no container",
    ),
    (
        &[
            "shm_size",
            "mem_reservation",
            "mem_swappiness",
            "memswap_limit",
            "cpu_count",
            "cpu_percent",
            "cpu_period",
            "cpu_quota",
            "cpu_rt_period",
            "cpu_rt_runtime",
            "cpu_shares",
            "cpuset",
            "pids_limit",
            "ulimits",
            "blkio_config",
            "oom_kill_disable",
            "oom_score_adj",
            "gpus",
        ],
        "`limits` of a process has memory and cpu alone",
    ),
    (&["logging"], "`tulle up` prints what processes say"),
    (&["labels", "label_file"], "labels of containers are for other tools"),
    (&["develop"], "nothing is built or copied here"),
    (&["post_start", "pre_stop"], "put it into the command: [sh, -c, '…']"),
    (&["provider", "models"], "what docker compose itself starts is none of ours"),
];

pub const UNKNOWN: &str = "`tulle up` has nothing like it";

/// Why a field of a service is not taken over; `None` where it is.
pub fn reason(name: &str) -> Option<&'static str> {
    if TAKEN.contains(&name) || name.starts_with("x-") {
        return None;
    }
    let found = REASONS.iter().find(|(names, _)| names.contains(&name));
    Some(found.map_or(UNKNOWN, |(_, reason)| reason))
}

/// What well-known images run, for who has the program on this machine.
const PROGRAMS: &[(&str, &str)] = &[
    ("caddy", "caddy run --config Caddyfile"),
    ("elasticsearch", "elasticsearch -E http.port=${PORT}"),
    ("grafana", "grafana server --homepath /usr/share/grafana"),
    ("mailhog", "MailHog"),
    ("mailpit", "mailpit --listen ${HOST}:${PORT}"),
    ("mariadb", "mariadbd --datadir=data --port=${PORT} --bind-address=${HOST}"),
    ("memcached", "memcached -l ${HOST} -p ${PORT}"),
    ("minio", "minio server data --address ${HOST}:${PORT}"),
    ("mongo", "mongod --dbpath data --bind_ip ${HOST} --port ${PORT}"),
    ("mysql", "mysqld --datadir=data --port=${PORT} --bind-address=${HOST}"),
    ("nats", "nats-server -a ${HOST} -p ${PORT}"),
    ("nginx", "nginx -p . -c nginx.conf -g 'daemon off;'"),
    ("postgres", "postgres -D data -h ${HOST} -p ${PORT}"),
    ("prometheus", "prometheus --config.file=prometheus.yml --web.listen-address=${HOST}:${PORT}"),
    ("rabbitmq", "rabbitmq-server"),
    ("redis", "redis-server --bind ${HOST} --port ${PORT}"),
    ("traefik", "traefik --configFile=traefik.yml"),
    ("valkey", "valkey-server --bind ${HOST} --port ${PORT}"),
];

/// How the program of an image is started elsewhere, where that is known.
pub fn program_of(image: &str) -> Option<&'static str> {
    let name = image.rsplit('/').next().unwrap_or_default();
    let name = name.split([':', '@']).next().unwrap_or_default();
    PROGRAMS.iter().find(|(known, _)| *known == name).map(|(_, command)| *command)
}
