//! Commands and paths as somebody in this directory would type them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use orpo_files::quoted;

/// The name under which this program is installed.
const NAME: &str = "orpo";

/// The command `orpo ARGS`, ready to be pasted into a shell here.
pub fn describe(args: &[OsString]) -> String {
    let here = here();
    let words = args.iter().map(|arg| word(&arg.to_string_lossy(), &here));
    std::iter::once(program()).chain(words).collect::<Vec<_>>().join(" ")
}

/// What calls this program from here: `orpo` if a shell would find this very file by that name, else its path.
pub fn program() -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::current_exe().map_or_else(|_| NAME.into(), |exe| name_of(&exe, std::env::split_paths(&path), &here()))
}

fn name_of(exe: &Path, mut path: impl Iterator<Item = PathBuf>, here: &Path) -> String {
    let found = path.find_map(|dir| Some(dir.join(NAME)).filter(|file| file.is_file()));
    let real = |file: &Path| file.canonicalize().ok();
    if found.is_some_and(|found| real(&found).is_some() && real(&found) == real(exe)) {
        return NAME.into();
    }
    let path = shown(exe, here);
    // A word without a slash would be looked up on the PATH.
    quoted(&if path.contains('/') { path } else { format!("./{path}") })
}

/// An argument with its path shortened and its value quoted; `--flag=value` stays in one piece.
fn word(arg: &str, here: &Path) -> String {
    let (flag, value) = match arg.split_once('=') {
        Some((flag, value)) if flag.starts_with("--") => (format!("{flag}="), value),
        _ => (String::new(), arg),
    };
    flag + &quoted(&shown(Path::new(value), here))
}

/// A path as seen from the directory `here`.
pub fn shown(path: &Path, here: &Path) -> String {
    match path.strip_prefix(here) {
        Ok(inside) if !inside.as_os_str().is_empty() => inside.display().to_string(),
        _ => path.display().to_string(),
    }
}

/// The current directory.
pub fn here() -> PathBuf {
    std::env::current_dir().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_command_can_be_typed_again() {
        let inside = Path::new("/data/runs/a b");
        let word = |arg: &str| word(arg, Path::new("/data"));
        assert_eq!(word(inside.to_str().unwrap()), "'runs/a b'");
        assert_eq!(word("--title=It's ORPO"), r"--title='It'\''s ORPO'");
        assert_eq!([word("--data=/b"), word("eval"), word("")], ["--data=/b", "eval", "''"]);
    }

    #[test]
    fn the_program_is_called_by_name_only_where_a_shell_would_find_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            path
        };
        let (built, installed) = (file("target/release/orpo"), file("bin/orpo"));
        let bin = || installed.parent().unwrap().to_path_buf();
        let name = |exe: &Path, path: &[PathBuf]| name_of(exe, path.iter().cloned(), dir.path());
        assert_eq!(name(&installed, &[dir.path().join("none"), bin()]), "orpo");
        // Another file of that name comes first, or none does.
        assert_eq!(name(&built, &[bin()]), "target/release/orpo");
        assert_eq!(name(&built, &[]), "target/release/orpo");
        assert_eq!(name(&file("orpo"), &[]), "./orpo");
        assert_eq!(name_of(&file("my dir/orpo"), std::iter::empty(), dir.path()), "'my dir/orpo'");
        fs::create_dir(dir.path().join("links")).unwrap();
        std::os::unix::fs::symlink(&built, dir.path().join("links/orpo")).unwrap();
        assert_eq!(name(&built, &[dir.path().join("links")]), "orpo");
    }
}
