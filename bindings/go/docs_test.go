package shellflip_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every exported name has a comment that begins as godoc wants it: with the name.
func TestEveryExportedNameIsDocumented(t *testing.T) {
	for _, folder := range []string{".", "fliphttp", "testing"} {
		fileset := token.NewFileSet()
		var files []*ast.File
		paths, _ := filepath.Glob(filepath.Join(folder, "*.go"))
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			file, err := parser.ParseFile(fileset, path, text, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, file)
		}
		pkg, err := doc.NewFromFiles(fileset, files, "x/"+folder)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(pkg.Doc, "Package "+pkg.Name) {
			t.Errorf("package %s has no comment", pkg.Name)
		}
		names := 0
		check := func(name, comment string) {
			if names++; ast.IsExported(name) && !strings.HasPrefix(comment, name) {
				t.Errorf("%s.%s: %q", pkg.Name, name, comment)
			}
		}
		for _, function := range pkg.Funcs {
			check(function.Name, function.Doc)
		}
		values := func(all []*doc.Value) {
			for _, value := range all {
				for _, spec := range value.Decl.Specs {
					spec := spec.(*ast.ValueSpec)
					comment := spec.Doc.Text()
					if comment == "" {
						comment = value.Doc
					}
					check(spec.Names[0].Name, comment)
				}
			}
		}
		values(pkg.Consts)
		values(pkg.Vars)
		for _, kind := range pkg.Types {
			check(kind.Name, kind.Doc)
			values(kind.Consts)
			values(kind.Vars)
			for _, function := range append(kind.Funcs, kind.Methods...) {
				check(function.Name, function.Doc)
			}
			fields, is := kind.Decl.Specs[0].(*ast.TypeSpec).Type.(*ast.StructType)
			if !is {
				continue
			}
			for _, field := range fields.Fields.List {
				for _, name := range field.Names {
					check(name.Name, field.Doc.Text())
				}
			}
		}
		if names == 0 {
			t.Errorf("%s: nothing was looked at", folder)
		}
	}
}
