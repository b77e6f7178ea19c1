module example.com/maskline-client

go 1.18
