//! app BUNDLE TASK FOLDER: list the tasks, read the factors of one, and write it as a PEFT folder.

use hydraopt::{Bundle, Error};

fn run(path: &str, task: &str, folder: &str) -> Result<(), Error> {
    let mut bundle = Bundle::open(path)?;
    let mut numbers = 0;
    bundle.read_factors(task, |module| numbers += module.a.len() + module.b.len())?;
    bundle.write_peft(task, folder)?;
    for task in bundle.tasks() {
        println!("{}: {} modules", task.name, task.modules);
    }
    println!("{task}: {numbers} numbers");
    Ok(())
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [path, task, folder] = words.as_slice() else {
        panic!("app BUNDLE TASK FOLDER");
    };
    if let Err(error) = run(path, task, folder) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
