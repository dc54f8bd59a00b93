//! The process that evaluates expressions, without the rest of `tulle`.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    tulle_flow::serving::serve()
}
