package main

// version is set by the build.
var version = "dev"

func main() { println("atoll-guestd", version) }
