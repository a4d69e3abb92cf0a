// Judges the Grafana dashboard on standard input, as Grafana's own tools do: its schema, strictly (grafana-foundation-sdk),
// and the rules of dashboard-linter, but for what the linter's configuration, the one argument, excludes. Each finding is a
// line on standard output.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/grafana/dashboard-linter/lint"
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/statetimeline"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

func main() {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		fail(err)
	}
	strict(text)
	lints(text, os.Args[1])
}

// Options of panels and queries are judged by the plugin that they are of. The test sees to it that there are no others, for
// the schema has no opinion of a kind that it does not know, and none of words where it wants one of a few.
func strict(text []byte) {
	runtime := cog.NewRuntime()
	runtime.RegisterDataqueryVariant(prometheus.VariantConfig())
	runtime.RegisterPanelcfgVariant(stat.VariantConfig())
	runtime.RegisterPanelcfgVariant(statetimeline.VariantConfig())
	runtime.RegisterPanelcfgVariant(table.VariantConfig())
	runtime.RegisterPanelcfgVariant(timeseries.VariantConfig())

	var read dashboard.Dashboard
	found(read.UnmarshalJSONStrict(text))
	found(read.Validate())
}

func lints(text []byte, configuration string) {
	read, err := lint.NewDashboard(text)
	if err != nil {
		fail(err)
	}
	exclusions := lint.NewConfigurationFile()
	if err := exclusions.Load(configuration); err != nil {
		fail(err)
	}
	rules := lint.NewRuleSet()
	results, err := rules.Lint([]lint.Dashboard{read})
	if err != nil {
		fail(err)
	}
	results.Configure(exclusions)
	for _, rule := range rules.Rules() {
		for _, place := range results.ByRule()[rule.Name()] {
			for _, result := range place.Result.Results {
				if result.Severity == lint.Warning || result.Severity == lint.Error {
					fmt.Printf("%s: %s\n", rule.Name(), result.Message)
				}
			}
		}
	}
}

// The schema's findings come as a list that may be empty.
func found(err error) {
	var errs cog.BuildErrors
	if errors.As(err, &errs) {
		for _, one := range errs {
			fmt.Printf("schema: %s\n", one)
		}
	} else if err != nil {
		fmt.Printf("schema: %s\n", err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
