//! Prints the layout of every structure and the value of every constant, a row a line, tab separated, for
//! `tests/abi/check-headers`: `struct NAME SIZE`, `field STRUCT PATH OFFSET SIZE` (`-`: not compared), `const NAME
//! VALUE`.

#[path = "../tests/common/layout.rs"]
mod layout;

fn main() {
    for row in layout::rows() {
        match row {
            layout::Row::Struct(name, size) => println!("struct\t{name}\t{size}"),
            layout::Row::Field(name, path, offset, Some(size)) => {
                println!("field\t{name}\t{path}\t{offset}\t{size}");
            }
            layout::Row::Field(name, path, offset, None) => {
                println!("field\t{name}\t{path}\t{offset}\t-")
            }
            layout::Row::Const(name, value) => println!("const\t{name}\t{value}"),
        }
    }
}
