/*
 * Between peaks and genes, with --regulation: every part a process that reads the finished embedding, the fragments and
 * the genome. A part whose inputs a run does not have says so in <part>.json, and the run goes on.
 *
 *   multivi.h5mu ─┬─ TRACKS
 *   fragments ────┼─ GROUP_PEAKS
 *   peaks ────────┼─ GENE_ACTIVITY
 *   imputed RNA ──┼─ LINKS
 *   motifs ───────┴─ MOTIFS
 */

include { TRACKS        } from '../modules/tracks'
include { GROUP_PEAKS   } from '../modules/group_peaks'
include { GENE_ACTIVITY } from '../modules/gene_activity'
include { LINKS         } from '../modules/links'
include { MOTIFS        } from '../modules/motifs'

workflow REGULATION {
    take:
    ch_embedding // channel: multivi.h5mu (one)
    ch_sources   // channel: [ [ sample ], [ fragments ], [ sample with a map ], [ barcode map ] ] (one), in samplesheet order
    ch_peaks     // channel: consensus.bed (one), or []
    ch_imputed   // channel: rna.zarr (one), or []
    genome       // Map: genome, chrom_style, mito_contig
    chrom_sizes  // path or []
    gtf          // path or []
    tss          // path or []
    blacklist    // path or []
    fasta        // path or []
    motifs       // path or []
    groups       // text: a column of obs
    tested       // Map: fdr, seed

    main:
    TRACKS(ch_embedding, ch_sources, genome + [groups: groups], chrom_sizes)
    GROUP_PEAKS(ch_embedding, ch_sources, ch_peaks, genome + [groups: groups], chrom_sizes, blacklist)
    GENE_ACTIVITY(ch_embedding, ch_sources, genome, chrom_sizes, gtf)
    LINKS(ch_embedding, ch_imputed, tested + [genome: genome.genome, chrom_style: genome.chrom_style], gtf, tss, fasta)
    MOTIFS(ch_embedding, tested + [groups: groups, chrom_style: genome.chrom_style], fasta, motifs)

    ch_facts = TRACKS.out.facts.mix(GROUP_PEAKS.out.facts, GENE_ACTIVITY.out.facts, LINKS.out.facts, MOTIFS.out.facts)
    ch_facts.subscribe { json -> tell_undone(json) }

    emit:
    links = LINKS.out.table // channel: links.tsv.gz (one, or none)
    facts = ch_facts // channel: <part>.json
}

// What a part could not do is told on the terminal as it happens
def tell_undone(json) {
    def facts = new groovy.json.JsonSlurper().parse(json.toFile())
    facts.done ? null : log.warn("--regulation: no ${facts.part}: ${facts.what} (${facts.why}). What to do: ${facts.remedy}")
}
