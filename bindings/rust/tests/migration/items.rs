//! The public items of another crate, read from its source: what a migration page has to speak of.
//!
//! Types, functions, fields, variants, methods, trait methods and re-exports that can be named from outside, as
//! `Type::method` or `module::function`; a type that is only reachable by a re-export goes by its name there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use syn::{Fields, ImplItem, Item, TraitItem, Type, UseTree, Visibility};

/// Every public item of the crate whose root is this file.
pub fn public_items(root: &Path) -> BTreeSet<String> {
    let mut source = Source::default();
    source.file(root, &root.with_file_name(""), true);
    let mut items: BTreeSet<String> =
        source.found.iter().filter(|one| one.reachable).map(|one| one.name.clone()).collect();
    // What a private module has is public where its name is re-exported.
    items.extend(
        source.found.iter().filter(|one| source.reexported.contains(one.owner())).map(|one| one.name.clone()),
    );
    items.extend(source.reexported);
    let public: BTreeSet<String> = items.clone();
    items.extend(
        source
            .methods
            .into_iter()
            .filter(|(of, _)| public.contains(of))
            .map(|(of, name)| format!("{of}::{name}")),
    );
    items
}

#[derive(Default)]
struct Source {
    found: Vec<Found>,
    reexported: BTreeSet<String>,
    methods: Vec<(String, String)>,
}

struct Found {
    name: String,
    reachable: bool,
}

impl Found {
    fn owner(&self) -> &str {
        self.name.split("::").next().unwrap_or_default()
    }
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

impl Source {
    /// `folder`: where the files of its modules are.
    fn file(&mut self, path: &Path, folder: &Path, reachable: bool) {
        let text =
            std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.items(&file.items, folder, reachable);
    }

    fn add(&mut self, name: String, reachable: bool) {
        self.found.push(Found { name, reachable });
    }

    fn items(&mut self, items: &[Item], folder: &Path, reachable: bool) {
        for item in items {
            match item {
                Item::Mod(module) => {
                    let (name, reachable) = (module.ident.to_string(), reachable && is_public(&module.vis));
                    let inner = folder.join(&name);
                    match &module.content {
                        // The crate's own tests.
                        _ if name == "tests" || name == "test" => {}
                        Some((_, items)) => self.items(items, &inner, reachable),
                        None => {
                            let beside: PathBuf = folder.join(format!("{name}.rs"));
                            let path = if beside.exists() { beside } else { inner.join("mod.rs") };
                            self.file(&path, &inner, reachable);
                        }
                    }
                    if reachable && name != "tests" {
                        self.add(name, true);
                    }
                }
                Item::Fn(function) if is_public(&function.vis) => {
                    self.add(function.sig.ident.to_string(), reachable)
                }
                Item::Const(one) if is_public(&one.vis) => self.add(one.ident.to_string(), reachable),
                Item::Static(one) if is_public(&one.vis) => self.add(one.ident.to_string(), reachable),
                Item::Type(one) if is_public(&one.vis) => self.add(one.ident.to_string(), reachable),
                Item::Struct(one) if is_public(&one.vis) => {
                    self.add(one.ident.to_string(), reachable);
                    if let Fields::Named(fields) = &one.fields {
                        for field in fields.named.iter().filter(|field| is_public(&field.vis)) {
                            let field = field.ident.as_ref().map(ToString::to_string).unwrap_or_default();
                            self.add(format!("{}::{field}", one.ident), reachable);
                        }
                    }
                }
                Item::Enum(one) if is_public(&one.vis) => {
                    self.add(one.ident.to_string(), reachable);
                    for variant in &one.variants {
                        self.add(format!("{}::{}", one.ident, variant.ident), reachable);
                    }
                }
                Item::Trait(one) if is_public(&one.vis) => {
                    self.add(one.ident.to_string(), reachable);
                    for item in &one.items {
                        if let TraitItem::Fn(method) = item {
                            self.add(format!("{}::{}", one.ident, method.sig.ident), reachable);
                        }
                    }
                }
                Item::Impl(block) if block.trait_.is_none() => self.methods_of(block),
                Item::Use(one) if is_public(&one.vis) && reachable => self.reexports(&one.tree),
                _ => {}
            }
        }
    }

    fn methods_of(&mut self, block: &syn::ItemImpl) {
        let Type::Path(path) = &*block.self_ty else { return };
        let Some(of) = path.path.segments.last() else { return };
        for item in &block.items {
            if let ImplItem::Fn(method) = item
                && is_public(&method.vis)
            {
                self.methods.push((of.ident.to_string(), method.sig.ident.to_string()));
            }
        }
    }

    fn reexports(&mut self, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => self.reexports(&path.tree),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.reexports(tree)),
            UseTree::Name(name) => _ = self.reexported.insert(name.ident.to_string()),
            UseTree::Rename(name) => _ = self.reexported.insert(name.rename.to_string()),
            UseTree::Glob(_) => panic!("a glob re-export: it has to be followed"),
        }
    }
}
