use super::*;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// A folder of the test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("program-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str, mode: u32) -> CString {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, name).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        c(&path)
    }

    fn path(&self, name: &str) -> CString {
        c(&self.0.join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn id(path: &CStr) -> Option<FileId> {
    process::file_id(path).ok().map(|(id, _)| id)
}

fn strings(list: &[&CStr]) -> Vec<CString> {
    list.iter().map(|one| (*one).to_owned()).collect()
}

fn startup(folder: &Folder, original: Option<Original>) -> Startup {
    let directory = c(&folder.0);
    Startup {
        original,
        directory_id: id(&directory),
        directory: Some(directory),
        ..Startup::capture(crate::startup::environment()).unwrap()
    }
}

#[test]
fn a_program_keeps_its_path_and_its_name() {
    let folder = Folder::new("plain");
    let app = folder.file("bin/app", 0o755);
    let arguments = strings(&[c"another name", c"-v"]);
    let directory = c(&folder.0);
    for execfn in [app.as_c_str(), c"bin/app"] {
        let facts = Facts {
            arguments: &arguments,
            execfn: Some(execfn),
            executable: id(&app),
            directory: Some(&directory),
            path: None,
        };
        let found = Original::find(&facts).unwrap();
        assert_eq!(found, Original { executable: execfn.to_owned(), arguments: arguments.clone() });
    }
}

#[test]
fn a_script_is_run_again_without_doubling_its_path() {
    let folder = Folder::new("script");
    let interpreter = folder.file("interpreter", 0o755);
    let script = folder.file("script", 0o755);
    for before in [vec![interpreter.as_c_str()], vec![&interpreter, c"-u"]] {
        let arguments = strings(&[&before[..], &[&script, c"a", c"b"]].concat());
        let facts = Facts {
            arguments: &arguments,
            execfn: Some(&script),
            executable: id(&interpreter),
            directory: None,
            path: None,
        };
        let found = Original::find(&facts).unwrap();
        assert_eq!(
            found,
            Original { executable: script.clone(), arguments: strings(&[&script, c"a", c"b"]) }
        );
    }
}

#[test]
fn a_link_is_not_resolved_and_a_replaced_file_is_found_by_its_path() {
    let folder = Folder::new("link");
    let one = folder.file("one/app", 0o755);
    let two = folder.file("two/app", 0o755);
    symlink("one", folder.0.join("current")).unwrap();
    let link = folder.path("current/app");
    let arguments = strings(&[&link, &link]);
    let facts = Facts {
        arguments: &arguments,
        execfn: Some(&link),
        executable: id(&one),
        directory: None,
        path: None,
    };
    assert_eq!(Original::find(&facts).unwrap().executable, link);
    let replaced = Facts { executable: id(&folder.file("unlinked", 0o755)), ..facts };
    let found = Original::find(&replaced).unwrap();
    assert_eq!(found, Original { executable: link, arguments: arguments.clone() });
    assert_ne!(id(&one), id(&two));
}

#[test]
fn started_by_descriptor_it_is_found_through_path() {
    let folder = Folder::new("fexecve");
    let app = folder.file("bin/app", 0o755);
    let arguments = strings(&[c"app"]);
    let path = format!("/nowhere:{}/bin", folder.0.display());
    for execfn in [c"/dev/fd/5", c"/proc/self/exe", c""] {
        let facts = Facts {
            arguments: &arguments,
            execfn: Some(execfn),
            executable: id(&app),
            directory: None,
            path: Some(path.as_bytes()),
        };
        assert_eq!(Original::find(&facts).unwrap().executable, app);
    }
}

#[test]
fn what_is_missing_at_the_upgrade_is_named() {
    let folder = Folder::new("missing");
    let app = folder.path("app");
    let original = Original { executable: app.clone(), arguments: strings(&[c"app"]) };
    let startup = startup(&folder, Some(original.clone()));
    let shown = app.to_str().unwrap();

    let program = Overrides::default().resolve(&startup).unwrap();
    assert_eq!(program.executable, app);
    let said = || program.check().unwrap_err().to_string();
    assert_eq!(said(), format!("cannot start {shown}: no such file or directory (ENOENT)"));
    folder.file("app", 0o644);
    assert_eq!(said(), format!("cannot start {shown}: permission denied (EACCES)"));
    std::fs::remove_file(folder.0.join("app")).unwrap();
    std::fs::create_dir(folder.0.join("app")).unwrap();
    assert_eq!(said(), format!("cannot start {shown}: is a directory (EISDIR)"));
    std::fs::remove_dir(folder.0.join("app")).unwrap();
    folder.file("app", 0o755);
    program.check().unwrap();

    let mut overrides = Overrides::default();
    overrides.set_directory(c"gone").unwrap();
    let error = overrides.resolve(&startup).unwrap_err().to_string();
    let gone = folder.path("gone").into_string().unwrap();
    assert_eq!(error, format!("cannot start in directory {gone}: no such file or directory (ENOENT)"));

    let mut overrides = Overrides::default();
    overrides.set_command(c"no-such-program", &[]).unwrap();
    let error = overrides.resolve(&startup).unwrap_err();
    assert!(error.to_string().starts_with("cannot start no-such-program, which is not in PATH ("));
    assert_eq!(error.errno(), Errno::ENOENT);

    let unknown = Startup { original: None, ..startup };
    assert_eq!(Overrides::default().resolve(&unknown).unwrap_err().errno(), Errno::ENOENT);
}

#[test]
fn a_command_is_found_in_path_or_from_the_directory_it_starts_in() {
    let folder = Folder::new("command");
    let app = folder.file("there/bin/app", 0o755);
    folder.file("there/first/app", 0o644);
    let startup = startup(&folder, None);
    let mut overrides = Overrides::default();
    overrides.set_directory(c"there").unwrap();
    overrides.set_command(c"bin/app", &[c"name", c"x"]).unwrap();
    let program = overrides.resolve(&startup).unwrap();
    assert_eq!(program.path(), app);
    assert_eq!(program.directory, Some(folder.path("there")));
    assert_eq!(program.arguments, strings(&[c"name", c"x"]));

    // Not executable is passed over, a relative part counts from the directory.
    overrides.set_env(c"PATH", Some(c"first:bin")).unwrap();
    overrides.set_command(c"app", &[]).unwrap();
    assert_eq!(overrides.resolve(&startup).unwrap().path(), app);
}

#[test]
fn the_original_program_is_found_from_another_directory() {
    let folder = Folder::new("elsewhere");
    let app = folder.file("app", 0o755);
    let original = Original { executable: c"./app".into(), arguments: strings(&[c"./app"]) };
    let startup = startup(&folder, Some(original));
    assert_eq!(Overrides::default().resolve(&startup).unwrap().executable.as_c_str(), c"./app");
    let mut overrides = Overrides::default();
    overrides.set_directory(c"/").unwrap();
    assert_eq!(id(&overrides.resolve(&startup).unwrap().path()), id(&app));
    assert_eq!(overrides.resolve(&startup).unwrap().directory.as_deref(), Some(c"/"));
}

#[test]
fn the_environment_is_changed_in_place_and_checked() {
    let folder = Folder::new("environment");
    let environment = strings(&[c"A=1", c"AB=2", c"PWD=/old", c"A=3", c"C=4"]);
    let startup = Startup { environment, ..startup(&folder, None) };
    let mut overrides = Overrides::default();
    overrides.set_env(c"A", Some(c"x")).unwrap();
    overrides.set_env(c"A", Some(c"y")).unwrap();
    overrides.set_env(c"C", None).unwrap();
    overrides.set_env(c"NEW", Some(c"")).unwrap();
    overrides.set_directory(c"/srv/current").unwrap();
    let expected = strings(&[c"A=y", c"AB=2", c"PWD=/srv/current", c"NEW="]);
    assert_eq!(overrides.environment(&startup), expected);
    for name in [c"", c"A=B", c"LISTEN_FDS", c"SHELLFLIP_CHANNEL"] {
        assert_eq!(overrides.set_env(name, None).unwrap_err().errno(), Errno::EINVAL);
    }
}
