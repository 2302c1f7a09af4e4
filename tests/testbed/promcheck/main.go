// Prometheus' own rules, for tests: its linter of metrics, its parser of PromQL and its query engine, without its
// storage.
//
// It reads one request in JSON from stdin and answers in JSON on stdout:
//
//	{"lint": "<exposition text>"}                     -> {"problems": ["<metric>: <text>", ...]}
//	{"parse": ["<expr>", ...]}                        -> {"parsed": [{"error": "", "type": "vector", "selectors": [...]}]}
//	{"series": [{"series": "up{a=\"b\"}", "values": "0+1x10"}], "interval": 15, "queries": [{"expr": "up", "at": 60}]}
//	                                                  -> {"answers": [[{"labels": {...}, "value": 1}], ...]}
//
// Series are written as promtool's unit tests write them, one sample an interval (in seconds) from 0 on.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"log"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

type request struct {
	Lint     string
	Parse    []string
	Series   []struct{ Series, Values string }
	Interval float64
	Queries  []struct {
		Expr string
		At   float64
	}
}

type selector struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels"`
}

type parsed struct {
	Error     string     `json:"error"`
	Type      string     `json:"type"`
	Selectors []selector `json:"selectors"`
}

type sample struct {
	Labels map[string]string `json:"labels"`
	Value  float64           `json:"value"`
}

type answer struct {
	Problems []string   `json:"problems"`
	Parsed   []parsed   `json:"parsed"`
	Answers  [][]sample `json:"answers"`
}

var syntax = parser.NewParser(parser.Options{})

func main() {
	log.SetFlags(0)
	var asked request
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		log.Fatal(err)
	}
	told := answer{Problems: []string{}, Parsed: []parsed{}, Answers: [][]sample{}}
	if asked.Lint != "" {
		problems, err := promlint.New(strings.NewReader(asked.Lint)).Lint()
		if err != nil {
			log.Fatal(err)
		}
		for _, problem := range problems {
			told.Problems = append(told.Problems, problem.Metric+": "+problem.Text)
		}
	}
	for _, expr := range asked.Parse {
		told.Parsed = append(told.Parsed, parse(expr))
	}
	if len(asked.Queries) > 0 {
		answers, err := evaluate(asked)
		if err != nil {
			log.Fatal(err)
		}
		told.Answers = answers
	}
	if err := json.NewEncoder(os.Stdout).Encode(told); err != nil {
		log.Fatal(err)
	}
}

func parse(expr string) parsed {
	tree, err := syntax.ParseExpr(expr)
	if err != nil {
		return parsed{Error: err.Error(), Selectors: []selector{}}
	}
	found := []selector{}
	parser.Inspect(tree, func(node parser.Node, _ []parser.Node) error {
		if vector, ok := node.(*parser.VectorSelector); ok {
			one := selector{Name: vector.Name, Labels: map[string]string{}}
			for _, matcher := range vector.LabelMatchers {
				one.Labels[matcher.Name] = matcher.Value
			}
			found = append(found, one)
		}
		return nil
	})
	return parsed{Type: string(tree.Type()), Selectors: found}
}

// seriesSet has its series in memory.
type seriesSet struct {
	series []storage.Series
	next   int
}

func (s *seriesSet) Next() bool                        { s.next++; return s.next <= len(s.series) }
func (s *seriesSet) At() storage.Series                { return s.series[s.next-1] }
func (s *seriesSet) Err() error                        { return nil }
func (s *seriesSet) Warnings() annotations.Annotations { return nil }

type point struct {
	at    int64
	value float64
}

func (p point) T() int64                      { return p.at }
func (p point) F() float64                    { return p.value }
func (p point) H() *histogram.Histogram       { return nil }
func (p point) FH() *histogram.FloatHistogram { return nil }
func (p point) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (p point) ST() int64                     { return 0 }
func (p point) Copy() chunks.Sample           { return p }

func evaluate(asked request) ([][]sample, error) {
	step := int64(asked.Interval * 1000)
	held := map[string]storage.Series{}
	sets := []labels.Labels{}
	for _, one := range asked.Series {
		metric, values, err := syntax.ParseSeriesDesc(one.Series + " " + one.Values)
		if err != nil {
			return nil, err
		}
		samples := []chunks.Sample{}
		for number, value := range values {
			if !value.Omitted {
				samples = append(samples, point{at: int64(number) * step, value: value.Value})
			}
		}
		held[metric.String()] = storage.NewListSeries(metric, samples)
		sets = append(sets, metric)
	}
	slices.SortFunc(sets, labels.Compare)
	memory := &storage.MockQueryable{MockQuerier: &storage.MockQuerier{
		SelectMockFunction: func(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
			var found []storage.Series
			for _, set := range sets {
				if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(set.Get(m.Name)) }) {
					found = append(found, held[set.String()])
				}
			}
			return &seriesSet{series: found}
		},
	}}
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e7, Timeout: time.Minute, Parser: syntax})
	answers := [][]sample{}
	for _, query := range asked.Queries {
		at := time.UnixMilli(int64(query.At * 1000))
		running, err := engine.NewInstantQuery(context.Background(), memory, nil, query.Expr, at)
		if err != nil {
			return nil, err
		}
		result := running.Exec(context.Background())
		vector, err := result.Vector()
		if err != nil {
			return nil, err
		}
		told := []sample{}
		for _, one := range vector {
			told = append(told, sample{Labels: one.Metric.Map(), Value: one.F})
		}
		slices.SortFunc(told, func(a, b sample) int {
			return cmp.Compare(labels.FromMap(a.Labels).String(), labels.FromMap(b.Labels).String())
		})
		answers = append(answers, told)
		running.Close()
	}
	return answers, nil
}
