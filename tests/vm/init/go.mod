module example.test/init

go 1.21
